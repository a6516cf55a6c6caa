//! Adding, removing and listing tables, and having them copied again, while nothing runs.

use super::*;

fn relations(ground: &Ground) -> String {
    ground.target.psql(
        "app",
        "select coalesce(string_agg(table_name || ' ' || state, ', ' order by table_name), '') from pgdiode.relation",
    )
}

#[test]
fn tables_join_and_leave() {
    let ground = Ground::new();
    let (source, target) = ground.databases(
        "app",
        "create table orders (id int primary key);
         create table lines (id int primary key);
         create table bare (a int);
         create table audit_log (id int primary key)",
    );
    let pgdiode =
        configured(&source, &target, "tables = [\"public.*\", \"!public.audit_*\", \"!public.bare\"]");
    let early = pgdiode.run(&["add-tables", "public.orders"]).failure(3);
    assert!(
        early.contains("publication \"pgdiode_main\" does not exist") && early.contains("pgdiode setup"),
        "{early}"
    );
    pgdiode.run(&["setup", "--yes"]).success();

    let unknown = pgdiode.run(&["add-tables", "public.ordres"]).failure(2);
    assert!(unknown.contains("the source has no table public.ordres"), "{unknown}");
    assert!(unknown.contains("did you mean public.orders?"), "{unknown}");
    let unsafe_table = pgdiode.run(&["add-tables", "public.bare"]).failure(3);
    assert!(
        unsafe_table.contains("alter table \"public\".\"bare\" replica identity full;"),
        "{unsafe_table}"
    );

    let added = pgdiode.run(&["add-tables", "public.audit_log"]).success();
    assert!(
        added.contains("alter publication \"pgdiode_main\" add table \"public\".\"audit_log\";"),
        "{added}"
    );
    assert_eq!(relations(&ground), "audit_log pending");
    assert_eq!(pgdiode.run(&["add-tables", "public.audit_log", "public.orders"]).success(), "");
    assert_eq!(relations(&ground), "audit_log pending, orders pending");

    ground
        .target
        .psql("app", "update pgdiode.relation set state = 'quarantined', copied_at = '0/1', reason = 'r'");
    let listed = pgdiode.run(&["list-tables", "--json"]).success();
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let of = |name: &str| listed.as_array().unwrap().iter().find(|it| it["name"] == name).unwrap().clone();
    assert_eq!(
        (of("public.orders")["carried"].clone(), of("public.orders")["state"].clone()),
        (true.into(), "quarantined".into())
    );
    assert_eq!(of("public.orders")["replica_identity"], "primary key");
    assert_eq!(of("public.lines")["state"], serde_json::Value::Null);
    assert_eq!(of("public.bare")["carried"], false);
    assert_eq!(of("public.bare")["replica_identity"], "nothing");
    assert_eq!(of("public.bare")["note"], "left out by \"!public.bare\"");

    let unknown = pgdiode.run(&["resync", "public.order"]).failure(2);
    assert!(unknown.contains("did you mean public.orders?"), "{unknown}");
    pgdiode.run(&["resync", "public.orders"]).success();
    assert_eq!(relations(&ground), "audit_log quarantined, orders pending");
    assert_eq!(
        ground
            .target
            .psql("app", "select count(*) from pgdiode.relation where copied_at is null and reason is null"),
        "1"
    );

    let removed = pgdiode.run(&["remove-tables", "public.audit_log"]).success();
    assert!(removed.contains("drop table \"public\".\"audit_log\";"), "{removed}");
    assert!(removed.contains("stays at the target"), "{removed}");
    assert_eq!(relations(&ground), "orders pending");
    let gone = pgdiode.run(&["remove-tables", "public.audit_log"]).failure(2);
    assert!(gone.contains("does not name public.audit_log"), "{gone}");
}

#[test]
fn a_partition_leaves_with_its_parent_only() {
    let ground = Ground::new();
    let (source, target) = ground.databases(
        "app",
        "create table events (id int primary key) partition by list (id);
         create table events_1 partition of events for values in (1)",
    );
    let pgdiode = configured(&source, &target, "");
    pgdiode.run(&["setup", "--yes"]).success();
    let refused = pgdiode.run(&["remove-tables", "public.events_1"]).failure(2);
    assert!(refused.contains("is carried as a partition of public.events"), "{refused}");
    assert!(refused.contains("\"!public.events_1\""), "{refused}");
    pgdiode.run(&["remove-tables", "public.events"]).success();
}
