//! Who had what replaced, and why: no swap without its entries, and no entry without its swap.

use super::*;

impl Ground {
    /// Action, verdict and reason of each entry.
    fn entries(&self) -> Vec<String> {
        let sql = "select concat_ws(' ', action, verdict, reason) from pgdiode.audit order by number";
        self.control(sql).lines().map(str::to_owned).collect()
    }
}

#[test]
fn the_chain_grows_with_each_verb_of_a_snapshot() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("snapshot.verify = \"full\"\n[audit]\naudit_prefix = \"LI:\"");
    let said = pgdiode.run(&["audit", "verify"]).failure(3);
    assert!(said.contains("there has never been a sync"), "{said}");
    assert_eq!(ground.databases(), "");
    let first = pgdiode.run(&["sync", "--reason", "case-1"]);
    for line in
        ["LI: sync of pipeline li: begun", "LI: swap of pipeline li: done", "LI: sync of pipeline li: done"]
    {
        assert!(first.stderr.contains(line), "{first:?}");
    }
    first.success();
    sync(&pgdiode).success();
    pgdiode.run(&["rollback", "--reason", "bad import"]).success();
    sync(&pgdiode).success();
    ground.source.psql("app", "delete from item");
    sync(&pgdiode).failure(4);
    // Refused: nothing was done, nothing is said.
    pgdiode.run(&["rollback", "--to", "77"]).failure(3);
    let mut running = ground.held_sync(&pgdiode);
    running.terminate();
    assert_eq!(running.wait().code(), Some(143), "{}", running.stderr());
    let swapped = |verb: &str| [format!("{verb} begun"), "swap done".into(), format!("{verb} done")];
    let mut expected: Vec<String> =
        ["sync begun case-1", "swap done case-1", "sync done case-1"].map(String::from).into();
    expected.extend(swapped("sync"));
    expected.extend(
        ["rollback begun bad import", "swap done bad import", "rollback done bad import"].map(String::from),
    );
    expected.extend(swapped("sync"));
    let rest = [
        "drop-generation begun",
        "drop-generation done",
        "sync begun",
        "sync not promoted",
        "sync begun",
        "sync killed",
    ];
    expected.extend(rest.map(String::from));
    assert_eq!(ground.entries(), expected);

    let of = |number: u32| -> serde_json::Value {
        let details = ground.control(&format!("select details from pgdiode.audit where number = {number}"));
        serde_json::from_str(&details).unwrap()
    };
    let (begun, swap, done) = (of(4), of(5), of(6));
    assert_eq!(
        (&begun["run"], &begun["adopt"], &begun["accept_losses"]),
        (&2.into(), &false.into(), &false.into())
    );
    assert!(begun["source"].as_str().unwrap().ends_with("/app as postgres"), "{begun}");
    assert_eq!(
        (&swap["begun"], &swap["incoming"], &swap["outgoing"], &swap["database"]),
        (&4.into(), &"li_shadow_2".into(), &"li_gen_1".into(), &"li".into())
    );
    assert_eq!(
        (&done["rows"], &done["verify"], &done["tables"]["public.item"]["rows"]),
        (&1001.into(), &"full".into(), &1000.into())
    );
    assert!(done["tables"]["public.item"]["digest"].as_str().unwrap().len() > 10, "{done}");
    assert!(done["bytes"].as_u64().unwrap() > 5_000_000 && done["position"].is_string(), "{done}");
    assert_eq!((&of(14)["generation"], &of(14)["database"]), (&2.into(), &"li_gen_2".into()));
    assert!(of(16)["error"].as_str().unwrap().contains("public.item has 0 rows"), "{}", of(16));

    let verified = pgdiode.run(&["audit", "verify"]).success();
    assert!(verified.contains("intact     18 entries"), "{verified}");
    let list = pgdiode.run(&["audit", "list", "--last", "1"]).success();
    assert!(list.trim_end().ends_with("as postgres  li  sync killed"), "{list}");
    let export = pgdiode.directory().join("audit.jsonl");
    std::fs::write(&export, pgdiode.run(&["audit", "export"]).success()).unwrap();
    let file = export.to_str().unwrap();
    assert!(pgdiode.run(&["audit", "verify", file]).success().contains("intact     18 entries"));

    // Whoever may write the table can do so, and it shows.
    ground.control("update pgdiode.audit set reason = 'case-2' where number = 2");
    let said = pgdiode.run(&["audit", "verify"]).failure(4);
    assert!(said.contains("broken at entry 2"), "{said}");
    ground.control("delete from pgdiode.audit where number = 2");
    assert!(pgdiode.run(&["audit", "verify"]).failure(4).contains("broken at entry 2"));
}

#[test]
fn what_a_swap_takes_out_of_sight_is_audited() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    ground.target.psql("li", "insert into item values (5000, 'own'); create table own (id int)");
    sync(&pgdiode).success();
    let details = ground.control("select details from pgdiode.audit where action = 'sync' and verdict = 'done' order by number desc limit 1");
    let details: serde_json::Value = serde_json::from_str(&details).unwrap();
    let told =
        |object: &str| details["discarded"].as_array().unwrap().iter().any(|one| one["object"] == object);
    assert!(told("table public.item") && told("table public.own"), "{details}");
    let first = ground.control("select details ? 'discarded' from pgdiode.audit where action = 'sync' and verdict = 'done' order by number limit 1");
    assert_eq!(first, "f", "nothing of anybody's was there");
}

/// The owner of the replica, who may do everything there but write the log.
fn without_insert(ground: &Ground) -> PgdiodeRun {
    ground.target.psql("postgres", "create role li_owner login createdb");
    let pgdiode = ground.configured(&ground.target.conninfo_as("li_owner", "li"), "");
    sync(&pgdiode).success();
    sync(&pgdiode).success();
    ground.source.psql("app", "update stamp set generation = 2");
    ground.control("alter table pgdiode.audit owner to postgres; grant select on pgdiode.audit to li_owner");
    pgdiode
}

#[test]
fn what_cannot_be_audited_is_not_swapped() {
    let ground = Ground::new();
    let pgdiode = without_insert(&ground);
    let (databases, entries) = (ground.databases(), ground.entries());
    for arguments in [&["sync"][..], &["rollback"]] {
        let said = pgdiode.run(arguments).failure(9);
        assert!(said.contains("the audit log cannot be written"), "{said}");
        assert!(said.contains("select and insert on pgdiode.audit"), "{said}");
        assert_eq!((ground.stamp().as_str(), ground.last_verdict().as_str()), ("1", "failed"));
        assert_eq!((ground.databases(), ground.entries()), (databases.clone(), entries.clone()));
    }
    ground.control("grant insert on pgdiode.audit to li_owner");
    sync(&pgdiode).success();
    assert_eq!(ground.stamp(), "2");
    pgdiode.run(&["audit", "verify"]).success();
}

/// The log takes the announcement and refuses the swap: then there is none, whatever was renamed already.
#[test]
fn a_swap_whose_entry_is_refused_has_not_happened() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    sync(&pgdiode).success();
    let databases = ground.databases();
    ground.source.psql("app", "update stamp set generation = 2");
    ground.control(
        "create function refuse() returns trigger language plpgsql as $$ begin raise 'no room in the log'; end $$;
         create trigger refuse before insert on pgdiode.audit for each row
                when (new.action = 'swap' or new.action = 'drop-generation') execute function refuse()",
    );
    for arguments in [&["sync"][..], &["rollback"]] {
        let said = pgdiode.run(arguments).failure(9);
        assert!(said.contains("no room in the log"), "{said}");
        assert_eq!((ground.stamp().as_str(), ground.last_verdict().as_str()), ("1", "failed"));
        assert_eq!(ground.databases(), databases);
        assert_eq!(ground.entries().last().unwrap(), &format!("{} failed", arguments[0]));
    }
    // Nor is a generation dropped without a word.
    ground.control("drop trigger refuse on pgdiode.audit; create trigger refuse before insert on pgdiode.audit for each row when (new.action = 'drop-generation') execute function refuse()");
    let output = sync(&pgdiode);
    assert!(output.stderr.contains("a generation stays"), "{output:?}");
    output.success();
    assert_eq!(
        (ground.stamp().as_str(), ground.databases().as_str()),
        ("2", "li li_gen_1 li_gen_2 li_pgdiode")
    );
    ground.control("drop trigger refuse on pgdiode.audit");
    sync(&pgdiode).success();
    assert_eq!(ground.databases(), "li li_gen_3 li_pgdiode");
    pgdiode.run(&["audit", "verify"]).success();
}

/// Another writer that holds the log keeps the swap waiting, and the readers keep reading.
#[test]
fn a_swap_waits_for_the_log_before_it_ends_readers() {
    let ground = Ground::new();
    let pgdiode = ground.pgdiode("");
    sync(&pgdiode).success();
    let mut running = ground.held_sync(&pgdiode);
    let mut reader = ground.target.spawn_psql("li", "select pg_sleep(600)");
    let reads = "select exists (select from pg_stat_activity where datname = 'li' and query like '%600%')";
    ground.target.wait_until("postgres", reads, "the reader");
    let lock = "begin; select pg_advisory_xact_lock(hashtextextended('pgdiode audit', 0));";
    let wait = "do $$ begin loop perform pg_sleep(0.02); exit when exists
        (select from pg_locks where locktype = 'advisory' and not granted); end loop; end $$; commit;";
    // Gives way once somebody waits, and the role is gone.
    let gone = "do $$ begin while exists (select from pg_roles where rolname = 'keep') loop perform pg_sleep(0.02); end loop; end $$;";
    ground.target.psql("postgres", "create role keep");
    let holder = ground.target.spawn_psql("li_pgdiode", &format!("{lock}{gone}{wait}"));
    ground.target.wait_until(
        "li_pgdiode",
        "select count(*) = 2 from pg_locks where locktype = 'advisory' and granted",
        "the log's lock",
    );
    ground.let_copy_go();
    ground.target.wait_until(
        "li_pgdiode",
        "select exists (select from pg_locks where locktype = 'advisory' and not granted)",
        "the swap",
    );
    // Longer than the time between two rounds of ending sessions.
    ground.target.psql("li", "select pg_sleep(0.3)");
    assert!(reader.is_running());
    ground.target.psql("postgres", "drop role keep");
    holder.wait().unwrap();
    assert!(running.wait().success(), "{}", running.stderr());
    assert!(reader.wait().unwrap_err().contains("terminating connection"));
    pgdiode.run(&["audit", "verify"]).success();
}
