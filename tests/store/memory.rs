//! That an object may be larger than our memory.

use std::process::Command;

use pgdiode::store::{AnyStore, Content, Location, Put, Store as _, StoreOptions};

use super::{Place, run};
use crate::harness::{S3Server, SshServer};

const LENGTH: u64 = 300 * 1024 * 1024;
/// Of the whole process: a debug build's code, the runtime, and what is in flight.
const RESIDENT_KIB_MAX: u64 = 150 * 1024;

/// Set for a child: this test binary again, in which nothing else runs.
const CHILD: &str = "PGDIODE_TEST_STORE_MEMORY";

#[test]
fn a_huge_object_does_not_fill_the_memory() {
    for place in [Place::directory(), Place::Ssh(SshServer::start()), Place::S3(S3Server::start())] {
        let location = place.root("huge");
        let StoreOptions { sftp, .. } = place.options();
        let output = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "store::memory::stores_and_fetches_where_it_is_told_to", "--nocapture"])
            .env(CHILD, &location)
            .env(format!("{CHILD}_KEY"), &sftp.identity_files[0])
            .env(format!("{CHILD}_HOSTS"), &sftp.known_hosts)
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let resident = said
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.trim().parse().ok());
        let resident: u64 = resident
            .unwrap_or_else(|| panic!("{location}: {said}{}", String::from_utf8_lossy(&output.stderr)));
        println!("{location}: {resident} KiB");
        assert!(resident < RESIDENT_KIB_MAX, "{location}: {resident} KiB for an object of {LENGTH} bytes");
    }
}

#[test]
fn stores_and_fetches_where_it_is_told_to() {
    let Ok(location) = std::env::var(CHILD) else { return };
    let mut options = super::s3_options();
    options.sftp.identity_files = vec![std::env::var_os(format!("{CHILD}_KEY")).unwrap().into()];
    options.sftp.known_hosts = std::env::var_os(format!("{CHILD}_HOSTS")).unwrap().into();
    let local = tempfile::tempdir().unwrap();
    let (file, fetched) = (local.path().join("content"), local.path().join("fetched"));
    std::fs::File::create(&file).unwrap().set_len(LENGTH).unwrap();
    run(async {
        let store = AnyStore::open(&Location::parse(&location).unwrap(), &options).await.unwrap();
        assert_eq!(store.create("object", Content::File(&file)).await.unwrap(), Put::Created);
        store.fetch("object", &fetched).await.unwrap();
    });
    assert_eq!(std::fs::metadata(&fetched).unwrap().len(), LENGTH);
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    println!("\n{}", status.lines().find(|line| line.starts_with("VmHWM:")).unwrap());
}
