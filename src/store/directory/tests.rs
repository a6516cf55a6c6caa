//! What the shared scenarios cannot reach: writers killed in mid-write, full disks, leftovers.

use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::sync::Barrier;

use super::*;
use crate::error::Kind;

/// Set in the environment of a child: this test binary again, which is the writer that something happens to.
const CHILD_ROOT: &str = "PGDIODE_TEST_STORE_ROOT";
const CHILD_CONTENT: &str = "PGDIODE_TEST_STORE_CONTENT";

fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future)
}

fn root() -> (tempfile::TempDir, Directory) {
    let root = tempfile::tempdir().unwrap();
    let store = Directory::open(root.path()).unwrap();
    (root, store)
}

fn unfinished(root: &Path) -> Vec<PathBuf> {
    fs::read_dir(root.join(name::UNFINISHED))
        .map_or_else(|_| Vec::new(), |list| list.flatten().map(|entry| entry.path()).collect())
}

/// The child: makes an object of a file, and says what came of it.
#[test]
fn writes_where_it_is_told_to() {
    let Some(root) = std::env::var_os(CHILD_ROOT) else { return };
    let content = PathBuf::from(std::env::var_os(CHILD_CONTENT).unwrap());
    let store = Directory::open(root).unwrap();
    match run(store.create("a/object", Content::File(&content))) {
        Ok(put) => println!("result: {put:?}"),
        Err(error) => println!("result: {:?} {}", error.kind(), error.chain()),
    }
}

/// The child under `sh`, which may prepare what the child inherits.
fn writer(root: &Path, content: &Path, prepare: &str) -> Child {
    Command::new("sh")
        .args(["-c", &format!("{prepare} exec \"$@\""), "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::directory::tests::writes_where_it_is_told_to", "--nocapture"])
        .env(CHILD_ROOT, root)
        .env(CHILD_CONTENT, content)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[test]
fn a_writer_killed_in_mid_write_leaves_nothing_that_is_seen_or_stays() {
    let (root, store) = root();
    // The writer cannot come to the end of a pipe that stays open.
    let pipe = root.path().join(".pipe");
    rustix::fs::mknodat(CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    let mut child = writer(root.path(), &pipe, "");
    let mut feeding = OpenOptions::new().write(true).open(&pipe).unwrap();
    io::Write::write_all(&mut feeding, b"the first half").unwrap();
    let half_written = || {
        unfinished(root.path())
            .iter()
            .any(|path| fs::read(path).is_ok_and(|content| content == b"the first half"))
    };
    while !half_written() {
        assert!(child.try_wait().unwrap().is_none(), "the writer ended");
        std::thread::yield_now();
    }
    assert_eq!(run(store.list("a", None)).unwrap(), []);
    assert_eq!(run(store.size("a/object")).unwrap(), None);

    // Another writer leaves alone what a living one holds.
    assert_eq!(run(store.create("other", Content::Bytes("x".into()))).unwrap(), Put::Created);
    assert_eq!(unfinished(root.path()).len(), 1);

    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(9));
    assert_eq!(run(store.list("a", None)).unwrap(), []);
    assert_eq!(run(store.create("a/object", Content::Bytes("whole".into()))).unwrap(), Put::Created);
    assert_eq!(unfinished(root.path()), [""; 0].map(PathBuf::from));
    assert_eq!(run(store.read_all("a/object", 9)).unwrap().unwrap(), "whole");
}

#[test]
fn a_full_disk_is_said_and_leaves_nothing() {
    let (root, store) = root();
    let content = tempfile::NamedTempFile::new().unwrap();
    content.as_file().set_len(1024 * 1024).unwrap();
    // A limit on the size of files fails in mid-write, as a full disk does, and needs no rights.
    let child = writer(root.path(), content.path(), "trap '' XFSZ; ulimit -f 64;");
    let output = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
    assert!(output.contains("result: Capacity no space is left for "), "{output}");
    assert_eq!(unfinished(root.path()), [""; 0].map(PathBuf::from));
    assert_eq!(run(store.size("a/object")).unwrap(), None);
    assert_eq!(run(store.create("a/object", Content::File(content.path()))).unwrap(), Put::Created);
}

#[test]
fn a_really_full_file_system_is_said_and_leaves_nothing() {
    let content = tempfile::NamedTempFile::new().unwrap();
    content.as_file().set_len(4 * 1024 * 1024).unwrap();
    let root = tempfile::tempdir().unwrap();
    // Sparse files are copied with their holes read as zeros, which need room.
    fs::write(content.path(), vec![1; 4 * 1024 * 1024]).unwrap();
    let script = "mount -t tmpfs -o size=1m tmpfs \"$PGDIODE_TEST_STORE_ROOT\" || exit 77; \"$@\"; \
                  ls -A \"$PGDIODE_TEST_STORE_ROOT/.partial\"";
    let output = Command::new("unshare")
        .args(["--map-root-user", "--mount", "sh", "-c", script, "sh"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "store::directory::tests::writes_where_it_is_told_to", "--nocapture"])
        .env(CHILD_ROOT, root.path())
        .env(CHILD_CONTENT, content.path())
        .output();
    let Ok(output) = output else { return eprintln!("skipped: no unshare here") };
    let said = String::from_utf8(output.stdout).unwrap();
    if !said.contains("result: ") {
        return eprintln!("skipped: file systems cannot be mounted here");
    }
    let (_, rest) = said.split_once("result: Capacity no space is left for ").expect(&said);
    assert!(rest.contains("os error 28") && !rest.contains("object."), "{said}");
}

#[test]
fn of_two_makers_one_wins_and_its_content_is_whole() {
    let (root, store) = root();
    for round in 0..20 {
        let name = format!("a/{round}");
        let barrier = Barrier::new(4);
        let wins: Vec<u8> = std::thread::scope(|scope| {
            let makers: Vec<_> = (0..4)
                .map(|maker: u8| {
                    let (store, name, barrier) = (store.clone(), &name, &barrier);
                    scope.spawn(move || {
                        barrier.wait();
                        let content = Content::Bytes(vec![maker; 100_000].into());
                        (maker, run(store.create(name, content)).unwrap())
                    })
                })
                .collect();
            makers
                .into_iter()
                .map(|maker| maker.join().unwrap())
                .filter_map(|(maker, put)| (put == Put::Created).then_some(maker))
                .collect()
        });
        assert_eq!(wins.len(), 1, "{wins:?} all made {name}");
        assert_eq!(run(store.read_all(&name, 100_000)).unwrap().unwrap(), vec![wins[0]; 100_000]);
    }
    assert_eq!(unfinished(root.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn a_dropped_create_is_all_or_nothing() {
    let (root, store) = root();
    run(async {
        let content = Content::Bytes(vec![7; 10_000_000].into());
        let create = store.create("object", content);
        tokio::select! {
            biased;
            result = create => panic!("it was to be dropped: {result:?}"),
            () = tokio::task::yield_now() => {}
        }
    });
    // The runtime has waited for the thread that writes.
    let size = run(store.size("object")).unwrap();
    assert!(size.is_none_or(|size| size == 10_000_000), "{size:?}");
    assert_eq!(unfinished(root.path()), [""; 0].map(PathBuf::from));
}

#[test]
fn a_missing_root_is_not_made() {
    let (root, _) = root();
    let error = Directory::open(root.path().join("gone")).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.hint_text().unwrap().contains("mkdir -p"), "{error:?}");
    fs::write(root.path().join("file"), "").unwrap();
    assert!(Directory::open(root.path().join("file")).unwrap_err().what().contains("is no directory"));
    // Nor when it goes later.
    let store = Directory::open(root.path().join("..").join(root.path().file_name().unwrap())).unwrap();
    drop(root);
    assert!(run(store.create("a", Content::Bytes("x".into()))).is_err());
}

#[test]
fn without_hard_links_a_rename_spares_what_exists() {
    let (root, _) = root();
    let path = root.path().join("object");
    let make =
        |content: &'static str| Unfinished::write(root.path(), &path, &Owned::Bytes(content.into())).unwrap();
    let unfinished = make("first");
    rename_if_absent(&unfinished.path, &path).unwrap();
    let error = rename_if_absent(&make("second").path, &path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::AlreadyExists);
    assert_eq!(fs::read(&path).unwrap(), b"first");
}

#[test]
fn a_fetch_goes_on_where_it_was_interrupted() {
    let (root, store) = root();
    let content: Vec<u8> = (0..9_000_000_u32).map(|n| (n % 251) as u8).collect();
    assert_eq!(run(store.create("object", Content::Bytes(content.clone().into()))).unwrap(), Put::Created);
    let to = root.path().join("fetched");
    run(store.fetch("object", &to)).unwrap();
    assert_eq!(fs::read(&to).unwrap(), content);

    // What an earlier attempt brought is not asked for again: here it can be told by its content.
    let part = super::super::fetch::part_path(&format!("{}/object", store.display()), &to).unwrap();
    fs::write(&part, vec![0; 5_000_000]).unwrap();
    run(store.fetch("object", &to)).unwrap();
    let fetched = fs::read(&to).unwrap();
    assert!(fetched.len() == content.len() && fetched[..5_000_000].iter().all(|byte| *byte == 0));
    assert_eq!(fetched[5_000_000..], content[5_000_000..]);
    // Longer than the object: no beginning of it.
    fs::write(&part, vec![0; 9_000_001]).unwrap();
    run(store.fetch("object", &to)).unwrap();
    assert_eq!(fs::read(&to).unwrap(), content);
    assert!(!part.exists());
    assert_eq!(run(store.fetch("absent", &to)).unwrap_err().kind(), Kind::Unexpected);
}

#[test]
fn what_an_object_holds_is_compared_whole() {
    let (_root, store) = root();
    let content = vec![3; 2_500_000];
    assert_eq!(run(store.create("object", Content::Bytes(content.clone().into()))).unwrap(), Put::Created);
    let holds = |content: Vec<u8>| run(store.holds("object", Content::Bytes(content.into()))).unwrap();
    assert!(holds(content.clone()));
    let mut other = content.clone();
    other[2_400_000] = 4;
    assert!(!holds(other) && !holds(content[1..].to_vec()) && !holds(Vec::new()));
    let file = tempfile::NamedTempFile::new().unwrap();
    fs::write(file.path(), &content).unwrap();
    assert!(run(store.holds("object", Content::File(file.path()))).unwrap());
    assert!(!run(store.holds("absent", Content::Bytes(content.into()))).unwrap());
}
