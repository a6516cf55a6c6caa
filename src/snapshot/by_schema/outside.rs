//! What is not in the schemas that are replaced, and yet hangs on them: it would stay with the old copy after a swap,
//! and go with it when that is dropped.

use crate::error::Result;
use crate::pg::session::Session;

/// Objects outside of the schemas that need something in them, as the server describes them: the first few.
/// Extensions' own objects do not count: they move along.
pub(super) async fn dependents(session: &mut Session, oids: &str) -> Result<Vec<String>> {
    let sql = format!(
        "
        with located (class, object, schema) as (
            select 'pg_catalog.pg_class'::regclass::oid, oid, relnamespace from pg_catalog.pg_class
            union all select 'pg_catalog.pg_proc'::regclass, oid, pronamespace from pg_catalog.pg_proc
            union all select 'pg_catalog.pg_type'::regclass, oid, typnamespace from pg_catalog.pg_type
            union all select 'pg_catalog.pg_operator'::regclass, oid, oprnamespace from pg_catalog.pg_operator
            union all select 'pg_catalog.pg_opclass'::regclass, oid, opcnamespace from pg_catalog.pg_opclass
            union all select 'pg_catalog.pg_opfamily'::regclass, oid, opfnamespace from pg_catalog.pg_opfamily
            union all select 'pg_catalog.pg_collation'::regclass, oid, collnamespace from pg_catalog.pg_collation
            union all select 'pg_catalog.pg_conversion'::regclass, oid, connamespace from pg_catalog.pg_conversion
            union all select 'pg_catalog.pg_ts_config'::regclass, oid, cfgnamespace from pg_catalog.pg_ts_config
            union all select 'pg_catalog.pg_ts_dict'::regclass, oid, dictnamespace from pg_catalog.pg_ts_dict
            union all select 'pg_catalog.pg_ts_parser'::regclass, oid, prsnamespace from pg_catalog.pg_ts_parser
            union all select 'pg_catalog.pg_ts_template'::regclass, oid, tmplnamespace from pg_catalog.pg_ts_template
            union all select 'pg_catalog.pg_statistic_ext'::regclass, oid, stxnamespace
                        from pg_catalog.pg_statistic_ext
            union all select 'pg_catalog.pg_constraint'::regclass, oid, connamespace from pg_catalog.pg_constraint
            union all select 'pg_catalog.pg_namespace'::regclass, oid, oid from pg_catalog.pg_namespace
            union all select 'pg_catalog.pg_rewrite'::regclass, r.oid, c.relnamespace
                        from pg_catalog.pg_rewrite r join pg_catalog.pg_class c on c.oid = r.ev_class
            union all select 'pg_catalog.pg_trigger'::regclass, t.oid, c.relnamespace
                        from pg_catalog.pg_trigger t join pg_catalog.pg_class c on c.oid = t.tgrelid
            union all select 'pg_catalog.pg_attrdef'::regclass, a.oid, c.relnamespace
                        from pg_catalog.pg_attrdef a join pg_catalog.pg_class c on c.oid = a.adrelid
            union all select 'pg_catalog.pg_policy'::regclass, p.oid, c.relnamespace
                        from pg_catalog.pg_policy p join pg_catalog.pg_class c on c.oid = p.polrelid
            union all select 'pg_catalog.pg_cast'::regclass, k.oid, t.typnamespace
                        from pg_catalog.pg_cast k
                        join pg_catalog.pg_type t on t.oid in (k.castsource, k.casttarget)
                             and t.typnamespace in ({oids})
        )
        select distinct pg_catalog.pg_describe_object(
                   coalesce(w.ev, d.classid), coalesce(w.view, d.objid), case when w.ev is null then d.objsubid else 0 end)
          from pg_catalog.pg_depend d
          join located inside on inside.class = d.refclassid and inside.object = d.refobjid
               and inside.schema in ({oids})
          left join located dependent on dependent.class = d.classid and dependent.object = d.objid
          left join (select r.oid, 'pg_catalog.pg_class'::regclass::oid as ev, r.ev_class as view
                       from pg_catalog.pg_rewrite r) w
               on d.classid = 'pg_catalog.pg_rewrite'::regclass and w.oid = d.objid
         where case when dependent.schema is null
                    then d.classid in ('pg_catalog.pg_cast'::regclass, 'pg_catalog.pg_event_trigger'::regclass,
                                       'pg_catalog.pg_publication_rel'::regclass)
                         or d.classid = pg_catalog.to_regclass('pg_catalog.pg_publication_namespace')
                    else dependent.schema not in ({oids})
                         and not exists (select from pg_catalog.pg_namespace n
                                          where n.oid = dependent.schema and n.nspname ~ '^pg_') end
           and not exists (select from pg_catalog.pg_depend m
                            where m.classid = d.refclassid and m.objid = d.refobjid and m.deptype = 'e')
         order by 1 limit 10"
    );
    Ok(session.query(&sql).await?.iter().map(|row| row.string(0)).collect())
}
