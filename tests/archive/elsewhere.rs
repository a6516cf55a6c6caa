//! The verbs on an archive that lies elsewhere: behind an SSH server, in a bucket.

use std::process::Command;

use pgdiode::archive::names::Stored;
use pgdiode::store::{AnyStore, Content, Put, Store as _};
use serde_json::{Value, json};

use super::built::Built;
use crate::harness::{S3Server, SshServer};
use crate::store::{Place, run};

/// An archive that was taken there, and a configuration that says where it is.
struct There {
    store: AnyStore,
    configuration: tempfile::NamedTempFile,
}

impl There {
    fn take(built: &Built, place: &Place) -> There {
        let location = place.root("archive");
        let keys = match place {
            Place::Ssh(server) => format!(
                "identity_file = \"{}\"\nknown_hosts = \"{}\"",
                server.identity().display(),
                server.known_hosts().display()
            ),
            _ => "access_key_id = \"test\"\nsecret_access_key_env = \"ARCHIVE_SECRET\"".to_owned(),
        };
        let configuration = tempfile::NamedTempFile::new().unwrap();
        let text = format!(
            "[pipeline.changes]\nsource = \"postgresql://repl@db1/app\"\ntables = [\"public.*\"]\n\
             [pipeline.changes.target]\narchive = \"{location}\"\n{keys}\n"
        );
        std::fs::write(configuration.path(), text).unwrap();
        let store = run(async {
            let store = place.open(&location).await;
            for name in built.objects() {
                let made = store.create(&name, Content::Bytes(built.read(&name).into())).await.unwrap();
                assert_eq!(made, Put::Created);
            }
            store
        });
        There { store, configuration }
    }

    /// Exit status, standard output, standard error.
    fn pgdiode(&self, arguments: &[&str]) -> (i32, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_pgdiode"))
            .arg("archive")
            .args(arguments)
            .arg("--config")
            .arg(self.configuration.path())
            .env_clear()
            .env("ARCHIVE_SECRET", "hunter2")
            .output()
            .unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        (output.status.code().unwrap(), text(&output.stdout), text(&output.stderr))
    }

    fn json(&self, arguments: &[&str], expected: i32) -> Value {
        let (status, out, err) = self.pgdiode(&[arguments, &["--json"]].concat());
        assert_eq!(status, expected, "{arguments:?}: {out}{err}");
        serde_json::from_str(&out).unwrap()
    }

    fn put(&self, name: &str, bytes: Vec<u8>) {
        run(self.store.replace(name, bytes.into())).unwrap();
    }
}

fn tended(place: &Place) {
    let mut built = Built::small();
    // Larger than what is read at once.
    built.rows = 60_000;
    built.file(Stored::Plain);
    built.base(2, 3);
    let there = There::take(&built, place);
    assert_eq!(there.json(&["list"], 0)["files"].as_array().unwrap().len(), 4);
    let report = there.json(&["verify"], 0);
    assert_eq!((&report["files"], &report["bases"], &report["notes"]), (&json!(4), &json!(2), &json!([])));
    let (status, out, _) = there.pgdiode(&["show", "4"]);
    assert!(status == 0 && out.as_bytes() == built.read("0000000004.json"), "{status}");

    let name = "0000000004.json";
    let mut damaged = built.read(name);
    let line = damaged.iter().rposition(|byte| *byte == b'{').unwrap();
    damaged[line] ^= 1;
    there.put(name, damaged);
    let found = there.json(&["verify"], 4);
    let lines = built.read(name).split(|byte| *byte == b'\n').count() - 1;
    assert_eq!(
        (&found["findings"][0]["object"], &found["findings"][0]["line"]),
        (&json!(name), &json!(lines))
    );
    there.put(name, built.read(name));

    assert_eq!(there.json(&["prune", "--yes"], 0)["files"], json!([1]), "the reader holds the second");
    assert_eq!(there.json(&["prune", "--forget-reader", "laptop", "--yes"], 0)["files"], json!([2]));
    let report = there.json(&["verify"], 0);
    assert_eq!((&report["files"], &report["notes"]), (&json!(2), &json!([])));
}

#[test]
fn an_archive_behind_an_ssh_server_is_tended() {
    let server = SshServer::start();
    let place = Place::Ssh(server);
    tended(&place);
}

#[test]
fn an_archive_in_a_bucket_is_tended() {
    tended(&Place::S3(S3Server::start()));
}

/// Files go into a pack there, are read out of it, and go with it.
fn packed(place: &Place) {
    let mut built = Built::small();
    // Larger than what is read at once.
    built.rows = 60_000;
    built.file(Stored::Plain);
    built.rows = 0;
    built.file(Stored::Plain);
    let there = There::take(&built, place);
    let done = there.json(&["compact", "--keep-last", "1"], 0);
    assert_eq!(
        (&done["files"], &done["packs"][0]["last"], &done["newest"]),
        (&json!(4), &json!(4), &json!(1))
    );
    let objects = run(async {
        let single = there.store.list("", None).await.unwrap();
        [single, there.store.list("packs", None).await.unwrap()].map(|objects| objects.len())
    });
    assert_eq!(objects, [1, 1]);
    for number in ["2", "4"] {
        let (status, out, _) = there.pgdiode(&["show", number]);
        assert!(status == 0 && out.as_bytes() == built.read(&format!("000000000{number}.json")), "{status}");
    }
    let report = there.json(&["verify"], 0);
    assert_eq!((&report["files"], &report["notes"]), (&json!(5), &json!([])));
    assert_eq!(there.json(&["prune", "--yes"], 0)["files"], json!([]), "the reader holds the second");
    let base = built.base(2, 5);
    for name in built.objects().iter().filter(|name| name.starts_with("bases/0000000002/")) {
        there.put(name, built.read(name));
    }
    assert_eq!(base.next_file, 5);
    let pruned = there.json(&["prune", "--forget-reader", "laptop", "--yes"], 0);
    assert_eq!(pruned["files"], json!([1, 2, 3, 4]));
    let left = run(there.store.list("packs", None)).unwrap();
    assert_eq!((left.len(), &there.json(&["verify"], 0)["files"]), (0, &json!(1)));
}

#[test]
fn files_are_packed_behind_an_ssh_server() {
    packed(&Place::Ssh(SshServer::start()));
}

#[test]
fn files_are_packed_in_a_bucket() {
    packed(&Place::S3(S3Server::start()));
}

#[test]
fn an_archive_that_cannot_be_reached_is_not_called_damaged() {
    let place = Place::Ssh(SshServer::start());
    let there = There::take(&Built::small(), &place);
    let Place::Ssh(server) = &place else { unreachable!() };
    server.kill();
    for verb in ["list", "verify", "prune"] {
        let (status, out, err) = there.pgdiode(&[verb]);
        assert_eq!((status, out.as_str()), (7, ""), "{err}");
    }
}
