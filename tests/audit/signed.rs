//! Signed checkpoints: the owner of the database may make the whole log anew, with hashes that fit, and is found out.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use super::*;

/// Makes every hash anew, after a change of what they cover.
const REHASH: &str = r#"
create or replace function pg_temp.part(t text) returns text language sql
    as $$ select coalesce(octet_length(t) || ':' || t || ',', '-,') $$;
do $$ declare e record; previous text := repeat('0', 64); begin
  for e in select * from pgdiode.audit order by number loop
    update pgdiode.audit set previous_hash = previous, hash = encode(sha256(convert_to(
        pg_temp.part('pgdiode audit 1') || pg_temp.part(previous) || pg_temp.part(e.number::text)
        || pg_temp.part(to_char(e.at at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'))
        || pg_temp.part(e.pipeline) || pg_temp.part(e.os_user) || pg_temp.part(e.host) || pg_temp.part(e.role)
        || pg_temp.part(e.action) || pg_temp.part(e.reason) || pg_temp.part(e.verdict)
        || pg_temp.part(e.details::text), 'UTF8')), 'hex')
     where number = e.number returning hash into previous;
  end loop; end $$"#;

struct Signed {
    ground: Ground,
    pgdiode: PgdiodeRun,
    /// Of whoever has no key.
    stranger: PgdiodeRun,
    public: String,
}

impl Signed {
    fn new() -> Signed {
        let ground = Ground::new();
        let sections = "[audit]\nsigning_key = \"key\"\ncheckpoint_dir = \"kept\"\n";
        let pgdiode = ground.pgdiode_as("postgres", sections);
        keygen(&pgdiode, "key");
        pgdiode.run(&["setup", "--yes", "--reason", "first"]).success();
        ground.target.psql(
            "app",
            "insert into pgdiode.relation (pipeline, schema_name, table_name) values ('main', 'public', 'orders')",
        );
        pgdiode.run(&["resync", "public.orders", "--reason", "second"]).success();
        let public = fs::read_to_string(pgdiode.directory().join("key.pub")).unwrap();
        let stranger = ground.pgdiode();
        Signed { ground, pgdiode, stranger, public: public.trim().to_owned() }
    }

    fn file(&self) -> std::path::PathBuf {
        self.pgdiode.directory().join("kept/main.jsonl")
    }

    fn checkpoints(&self) -> Vec<serde_json::Value> {
        let text = fs::read_to_string(self.file()).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    fn numbers(&self) -> Vec<i64> {
        self.checkpoints().iter().map(|one| one["number"].as_i64().unwrap()).collect()
    }
}

fn keygen(pgdiode: &PgdiodeRun, name: &str) {
    let path = pgdiode.directory().join(name);
    let made = Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path).status();
    assert!(made.expect("ssh-keygen runs: scripts/install installs it").success());
}

#[test]
fn each_operation_ends_with_a_checkpoint_that_ssh_keygen_takes() {
    let signed = Signed::new();
    assert_eq!(signed.numbers(), [2, 4]);
    let line = signed.pgdiode.run(&["audit", "checkpoint"]).success();
    assert_eq!(signed.numbers(), [2, 4], "there is nothing new to sign");
    let shown: serde_json::Value = serde_json::from_str(&line).unwrap();
    assert_eq!(shown, signed.checkpoints()[1]);
    let (status, report) = verify(&signed.pgdiode, &[]);
    assert_eq!((status, &report["checkpoints"]["count"]), (0, &2.into()), "{report}");
    let said = signed.pgdiode.run(&["audit", "verify"]).success();
    assert!(said.contains("signed     2 checkpoints, the last of entry 4 at 20"), "{said}");

    let text = |key: &str| shown[key].as_str().unwrap().to_owned();
    let message =
        format!("pgdiode audit checkpoint 1\nmain\n{}\n{}:{}\n", text("at"), shown["number"], text("hash"));
    let armour =
        format!("-----BEGIN SSH SIGNATURE-----\n{}\n-----END SSH SIGNATURE-----\n", text("signature"));
    let (signature, signers) =
        (signed.pgdiode.directory().join("sig"), signed.pgdiode.directory().join("allowed"));
    fs::write(&signature, armour).unwrap();
    fs::write(&signers, format!("auditor {}\n", signed.public)).unwrap();
    let takes = |message: &str| {
        let mut child = Command::new("ssh-keygen")
            .args(["-Y", "verify", "-n", "pgdiode-audit", "-I", "auditor", "-s"])
            .arg(&signature)
            .arg("-f")
            .arg(&signers)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(message.as_bytes()).unwrap();
        child.wait().unwrap().success()
    };
    assert!(takes(&message));
    assert!(!takes(&message.replace("main", "other")));
}

#[test]
fn a_log_that_was_made_anew_is_found_and_never_signed() {
    let signed = Signed::new();
    let good = signed.pgdiode.run(&["audit", "export"]).success();
    let edit = "update pgdiode.audit set reason = 'nothing' where number in (3, 4);";
    signed.ground.target.psql("app", &format!("{edit} {REHASH}"));
    assert_eq!(verify(&signed.stranger, &[]).0, 0, "by its hashes it is whole");
    let (status, report) = verify(&signed.pgdiode, &[]);
    let broken = (report["broken"]["number"].as_i64(), report["broken"]["damage"].as_str());
    assert_eq!((status, broken), (4, (Some(4), Some("rewritten"))), "{report}");

    // What is done next is done; nobody vouches for what was before it.
    let done = signed.pgdiode.run(&["resync", "public.orders", "--reason", "third"]);
    assert!(done.status.success() && done.stderr.contains("no checkpoint was made"), "{}", done.stderr);
    assert_eq!(signed.numbers(), [2, 4]);
    let refused = signed.pgdiode.run(&["audit", "checkpoint"]).failure(4);
    assert!(refused.contains("broken at entry 4 and is not signed"), "{refused}");

    // Without a server, and without a configuration of whoever signed.
    let forged = signed.pgdiode.run(&["audit", "export"]).success();
    let place = signed.stranger.directory();
    fs::write(place.join("good.jsonl"), good).unwrap();
    fs::write(place.join("forged.jsonl"), forged).unwrap();
    fs::copy(signed.file(), place.join("kept.jsonl")).unwrap();
    keygen(&signed.stranger, "other");
    let other = fs::read_to_string(place.join("other.pub")).unwrap();
    signed.ground.target.stop_fast();
    let check = |export: &str, key: &str| {
        signed.stranger.run(&["audit", "verify", export, "--checkpoints", "kept.jsonl", "--signed-by", key])
    };
    let said = check("good.jsonl", &signed.public).success();
    assert!(said.contains("signed     2 checkpoints"), "{said}");
    let said = check("forged.jsonl", &signed.public).failure(4);
    assert!(said.contains("not the one of the known head"), "{said}");
    let said = check("good.jsonl", other.trim()).failure(4);
    assert!(said.contains("signed by another key"), "{said}");
    signed.stranger.run(&["audit", "verify", "good.jsonl", "--checkpoints", "kept.jsonl"]).failure(2);
    let kept = fs::read_to_string(place.join("kept.jsonl")).unwrap();
    fs::write(place.join("kept.jsonl"), kept.replace("\"number\":4", "\"number\":3")).unwrap();
    let said = check("good.jsonl", &signed.public).failure(4);
    assert!(said.contains("kept.jsonl:2: the checkpoint has a signature that is not valid"), "{said}");
}

#[test]
fn a_cut_tail_is_found_by_itself() {
    let signed = Signed::new();
    signed.ground.target.psql("app", "delete from pgdiode.audit where number > 2");
    assert_eq!(verify(&signed.stranger, &[]).0, 0, "the chain alone cannot show it");
    let (status, report) = verify(&signed.pgdiode, &[]);
    assert_eq!((status, &report["broken"]["damage"]), (4, &"cut".into()), "{report}");
}
