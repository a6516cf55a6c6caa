//! Disks that become full, at the writer and at the reader: told as such, nothing half made is left, and with room both go
//! on. A process whose files may not grow beyond a size meets what a full disk means, at a chosen moment.

use std::process::{Command, Output};

use crate::harness::{Cluster, PgdiodeRun, Version, ground};

/// `start --once-caught-up`, in which no file grows beyond so many blocks of 512 bytes.
fn start_with_room_for(blocks: u32, run: &PgdiodeRun) -> Output {
    Command::new("sh")
        .args(["-c", &format!("trap '' XFSZ; ulimit -f {blocks}; exec \"$0\" start --once-caught-up")])
        .arg(env!("CARGO_BIN_EXE_pgdiode"))
        .current_dir(run.directory())
        .env("HOME", run.directory())
        .env("PGDIODE_CONFIG", run.config_path())
        .output()
        .unwrap()
}

fn assert_full(output: &Output) {
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(8), "{said}");
    assert!(said.contains("spool") || said.contains("no space is left"), "{said}");
}

#[test]
fn a_full_disk_leaves_nothing_half_made_at_either_side() {
    let (source, target) = (Cluster::start(Version::V15, &[]), Cluster::start(Version::V15, &[]));
    source.psql("postgres", "create table t (id int primary key, v text); insert into t values (0, 'first')");
    let archive = ground::fresh_directory("archive").display().to_string();
    let writer = PgdiodeRun::new(&format!(
        "[pipeline.out]\nsource = \"{}\"\ntarget = \"{archive}\"\narchive.file_seconds = 0\n",
        source.conninfo("postgres")
    ));
    let reader = PgdiodeRun::new(&format!(
        "[pipeline.laptop]\nsource = \"{archive}\"\ntarget = \"{}\"\n",
        target.conninfo("postgres")
    ));
    let verify = || PgdiodeRun::new("").run(&["archive", "verify", &archive]).success();
    let sealed = || std::fs::read_dir(format!("{archive}/meta/files")).unwrap().count();
    writer.run(&["setup", "--yes"]).success();
    writer.run(&["start", "--once-caught-up"]).success();
    reader.run(&["start", "--once-caught-up"]).success();

    source.psql("postgres", "insert into t select n, repeat('x', 1000) from generate_series(1, 3000) n");
    let files = sealed();
    for _ in 0..2 {
        assert_full(&start_with_room_for(1000, &writer));
        assert_eq!(sealed(), files, "nothing of it is sealed");
        verify();
    }
    writer.run(&["start", "--once-caught-up"]).success();
    assert!(sealed() > files);
    verify();

    for _ in 0..2 {
        assert_full(&start_with_room_for(1000, &reader));
        assert_eq!(target.psql("postgres", "select count(*) from t"), "1", "whole transactions or nothing");
    }
    reader.run(&["start", "--once-caught-up"]).success();
    let sum = "select count(*), md5(string_agg(v, ',' order by id)) from t";
    assert_eq!(target.psql("postgres", sum), source.psql("postgres", sum));
    assert_eq!(
        target.psql("postgres", "select sum(inserts), sum(conflicts) from pgdiode.relation_count"),
        "3000|0"
    );
}
