//! `pgdiode check` of a pipeline that writes an archive, and of one that reads it.

use std::fs;

use crate::harness::{Cluster, PgdiodeRun, Version, ground};

const TABLES: &str = "create table users (id int primary key, name text); create table orders (id int primary key); insert into users values (1, 'one')";

#[test]
fn what_is_wrong_with_an_archive_is_found_before_anything_runs() {
    let (source, target) = (Cluster::start(Version::V15, &[]), Cluster::start(Version::V15, &[]));
    source.psql("postgres", TABLES);
    let place = ground::fresh_directory("archive");
    let archive = place.display().to_string();
    let writer = PgdiodeRun::new(&format!(
        "[pipeline.out]\nsource = \"{}\"\ntarget = \"{archive}\"\narchive.file_seconds = 0\n",
        source.conninfo("postgres")
    ));
    let reader = |further: &str| {
        PgdiodeRun::new(&format!(
            "[pipeline.laptop]\nsource = \"{archive}\"\ntarget = \"{}\"\n{further}\n",
            target.conninfo("postgres")
        ))
    };
    let finds = |run: &PgdiodeRun, status: i32, what: &str, hint: &str| {
        let output = run.run(&["check"]);
        assert_eq!(output.status.code(), Some(status), "{output:?}");
        assert!(output.stdout.contains(what) && output.stdout.contains(hint), "{what}: {output:?}");
    };

    finds(&writer, 0, "is empty: the first start begins an archive there", "pgdiode setup");
    finds(&reader(""), 3, "this is no archive", "its first start makes the archive");
    writer.run(&["setup", "--yes"]).success();
    source.psql("postgres", "select pg_create_logical_replication_slot('pgdiode_out', 'pgoutput')");
    finds(&writer, 3, "holds no archive that knows of it", "pgdiode setup --adopt-slot");
    source.psql("postgres", "select pg_drop_replication_slot('pgdiode_out')");
    writer.run(&["start", "--once-caught-up"]).success();
    finds(&writer, 0, "the last change file is 0000000001.json, up to ", "MB of log behind the source");
    let before = listed(&place);

    // The reader: what is there, what comes with the base, and what does not.
    finds(&reader(""), 0, "base 1 as of ", "2 tables of the base match");
    finds(
        &reader("tables = [\"public.users\", \"public.user\"]"),
        3,
        "the archive's base does not have them: public.user",
        "correct the names",
    );
    target.psql("postgres", "create role laptop login; grant create, temporary on database postgres to laptop; grant set on parameter session_replication_role to laptop");
    let as_laptop = PgdiodeRun::new(&format!(
        "[pipeline.laptop]\nsource = \"{archive}\"\ntarget = \"{}\"\narchive.control_schema = \"public\"\n",
        target.conninfo_as("laptop", "postgres")
    ));
    finds(
        &as_laptop,
        3,
        "may not make the control tables in schema public",
        "grant create on schema \"public\" to \"laptop\"",
    );
    finds(
        &reader("archive.spool_dir = \"/nowhere\""),
        3,
        "there is no directory /nowhere",
        "archive.spool_dir",
    );
    reader("").run(&["start", "--once-caught-up"]).success();
    finds(&reader(""), 0, "the control tables are in schema pgdiode", "2 tables of the base match");
    assert_eq!(target.psql("postgres", "select count(*) from users"), "1");

    // What cannot be reached, and what is no archive of this format.
    let gone = place.with_extension("gone");
    fs::rename(&place, &gone).unwrap();
    let said = writer.run(&["check"]);
    assert!(!said.status.success() && said.stdout.contains(&archive), "{said:?}");
    let said = reader("").run(&["check"]);
    assert!(!said.status.success() && said.stdout.contains(&archive), "{said:?}");
    fs::rename(&gone, &place).unwrap();
    let identity = place.join("meta/archive.json");
    let text = fs::read_to_string(&identity).unwrap();
    fs::write(&identity, text.replace("\"format\": 1", "\"format\": 7")).unwrap();
    finds(&writer, 3, "meta/archive.json", "");
    finds(&reader(""), 3, "meta/archive.json", "");
    fs::write(&identity, text).unwrap();
    target.stop_fast();
    let said = reader("").run(&["check"]);
    assert_eq!(said.status.code(), Some(7), "{said:?}");
    source.stop_fast();
    let said = writer.run(&["check"]);
    assert_eq!(said.status.code(), Some(6), "{said:?}");
    let ours =
        listed(&place).into_iter().filter(|name| !name.starts_with("meta/readers")).collect::<Vec<_>>();
    assert_eq!(ours, before, "a check makes nothing");
}

fn listed(place: &std::path::Path) -> Vec<String> {
    let mut names = Vec::new();
    for folder in ["", "meta", "meta/files", "meta/epochs", "bases"] {
        let Ok(entries) = fs::read_dir(place.join(folder)) else { continue };
        names.extend(
            entries.map(|entry| format!("{folder}/{}", entry.unwrap().file_name().to_string_lossy())),
        );
    }
    names.retain(|name| !name.contains("/.") && name != "meta/readers");
    names.sort();
    names
}
