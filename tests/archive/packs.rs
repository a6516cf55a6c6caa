//! `pgdiode archive compact` puts many files into few objects, loses none of them whatever is killed, and everything that
//! looks at an archive finds them there.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use pgdiode::archive::keys::ReaderKeys;
use pgdiode::archive::manifest::{self, Pruned};
use pgdiode::archive::names::{self, Stored};
use pgdiode::archive::pack::{Pack, Span};
use pgdiode::custody::{CompactOptions, compact};
use pgdiode::digest::sha256;
use pgdiode::error::{Error, Result};
use pgdiode::source::archive::Packed;
use pgdiode::store::{Content, Directory, Object, Put, Store};
use serde_json::{Value, json};

use super::built::{Built, pgdiode};
use crate::harness::Rng;
use crate::store::run;

const SECOND: &str = "packs/0000000004-0000000006.pack";

/// Ten files in every form, a base before each of 1 and 5, and a reader that needs the sixth.
fn grown() -> Built {
    let mut built = Built::new("a");
    for number in 1..=10 {
        built.file(if number % 3 == 0 { Stored::Zstd } else { Stored::Plain });
    }
    built.base(1, 1);
    built.base(2, 5);
    built.reader("laptop", 6);
    built
}

/// What files of `grown` are together, in bytes, for packs of three.
fn three(built: &Built) -> u64 {
    let sizes: Vec<u64> = built.sealed.iter().map(|file| file.stored_bytes).collect();
    sizes.windows(3).map(|three| three.iter().sum()).max().unwrap()
}

fn options(pack_bytes: u64) -> CompactOptions {
    CompactOptions { pack_bytes, keep_last: 2 }
}

fn ended(verb: &str, built: &Built, arguments: &[&str], expected: i32) -> Value {
    let (status, out, err) = pgdiode(&[&["archive", verb, "--json", built.root()], arguments].concat());
    assert_eq!(status, expected, "{verb}: {out}{err}");
    serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}{err}"))
}

/// That every file is there as it was written, whatever way it lies there.
fn assert_whole(built: &Built, contents: &BTreeMap<u64, String>) {
    let report = ended("verify", built, &[], 0);
    assert_eq!(report["files"], contents.len());
    assert_eq!(report["head"], format!("10:{}", built.sealed[9].content_sha256));
    let packed = Packed::over(Directory::open(built.root()).unwrap());
    for (number, content) in contents {
        let manifest = run(packed.manifest(*number)).unwrap().unwrap();
        assert_eq!(
            manifest,
            manifest::text(&built.sealed[usize::try_from(*number).unwrap() - 1]),
            "the manifest as it was"
        );
        let (status, out, err) = pgdiode(&["archive", "show", &number.to_string(), built.root()]);
        assert!(status == 0 && out == *content, "{number}: {err}");
    }
}

fn contents(built: &Built) -> BTreeMap<u64, String> {
    let show = |number: u64| pgdiode(&["archive", "show", &number.to_string(), built.root()]).1;
    (1..=10).map(|number| (number, show(number))).collect()
}

#[test]
fn files_become_packs_and_stay_what_they_are() {
    let built = grown();
    let (listed, shown) = (ended("list", &built, &[], 0), contents(&built));
    let stored: Vec<Vec<u8>> = built.sealed.iter().map(|file| built.read(&file.name)).collect();
    let before = built.objects();
    let plan = ended("compact", &built, &["--keep-last", "2", "--dry-run"], 0);
    assert_eq!((&plan["done"], &plan["files"], &plan["newest"]), (&json!(false), &json!(8), &json!(2)));
    assert_eq!(built.objects(), before, "a dry run changes nothing");

    let done = ended("compact", &built, &["--keep-last", "2"], 0);
    assert_eq!(
        (&done["done"], &done["packs"], &done["files"]),
        (&json!(true), &plan["packs"], &plan["files"])
    );
    assert_eq!(
        built.objects().iter().filter(|name| !name.starts_with("bases/")).collect::<Vec<_>>(),
        [
            "0000000009.json.zst",
            "0000000010.json",
            "meta/archive.json",
            "meta/epochs/0000000001.json",
            "meta/files/0000000009.json",
            "meta/files/0000000010.json",
            "meta/packs/0000000001-0000000008.json",
            "meta/readers/laptop.json",
            "packs/0000000001-0000000008.pack",
        ]
    );
    let pack = built.read("packs/0000000001-0000000008.pack");
    assert_eq!(pack, stored[..8].concat(), "the stored files one after the other");
    let manifest = built.read("meta/packs/0000000001-0000000008.json");
    let said = Pack::parse(Span::new(1, 8).unwrap(), &manifest).unwrap();
    assert_eq!(said.stored_sha256, sha256(&pack));
    assert_whole(&built, &shown);
    let mut now = ended("list", &built, &[], 0);
    assert_eq!(now["packs"].as_array().unwrap().len(), 1);
    now["packs"] = json!([]);
    assert_eq!(now, listed, "but for the packs the list says the same");
    assert_eq!(ended("compact", &built, &["--keep-last", "2"], 0)["packs"], json!([]), "once is enough");
    let (_, text, _) = pgdiode(&["archive", "list", built.root()]);
    assert!(text.contains("\npacks/0000000001-0000000008.pack      8     1   8  "), "{text}");
}

/// A reader that asks once more, later, and through the same packs as before.
#[test]
fn whoever_reads_meanwhile_finds_every_file() {
    let built = grown();
    let sums: Vec<String> = built.sealed.iter().map(|file| file.stored_sha256.clone()).collect();
    let packed = Packed::over(Directory::open(built.root()).unwrap());
    let look = |packed: &Packed<Directory>| {
        assert_eq!(run(packed.sealed(0)).unwrap(), (1..=10).collect::<Vec<_>>());
        for (file, sum) in built.sealed.iter().zip(&sums) {
            let (name, size) = (&file.name, file.stored_bytes);
            assert_eq!(run(packed.size(name)).unwrap(), Some(size));
            assert_eq!(&sha256(&run(packed.read(name, 0, 1 << 20)).unwrap()), sum);
            let fetched = tempfile::tempdir().unwrap();
            run(packed.fetch(name, &fetched.path().join("file"))).unwrap();
            assert_eq!(&sha256(&std::fs::read(fetched.path().join("file")).unwrap()), sum);
        }
    };
    look(&packed);
    let beside = Packed::over(Directory::open(built.root()).unwrap());
    run(compact(&beside, &ReaderKeys::default(), &options(three(&built)))).unwrap();
    // Nobody has told it.
    assert_eq!(run(packed.manifest(4)).unwrap().unwrap(), manifest::text(&built.sealed[3]));
    look(&packed);
    look(&Packed::over(Directory::open(built.root()).unwrap()));
    assert_eq!(run(packed.read("0000000004.json", built.sealed[3].stored_bytes, 10)).unwrap(), Bytes::new());
    assert!(
        run(packed.read("0000000011.json", 0, 1)).unwrap_err().what().contains("no object 0000000011.json")
    );
    assert_eq!(run(packed.manifest(11)).unwrap(), None);
}

/// A store that dies at its n-th change: before it is made, or just after. And how many objects were asked for.
struct Dying {
    store: Directory,
    left: AtomicU64,
    is_made: bool,
    has_died: AtomicBool,
    reads: AtomicU64,
    /// Removed by somebody else just before a pack is sealed, once.
    stolen: Mutex<Option<PathBuf>>,
}

impl Dying {
    fn at(root: &str, change: u64, is_made: bool) -> Dying {
        let store = Directory::open(root).unwrap();
        let (left, has_died) = (AtomicU64::new(change), AtomicBool::new(false));
        Dying { store, left, is_made, has_died, reads: AtomicU64::new(0), stolen: Mutex::default() }
    }

    async fn change<T>(&self, change: impl Future<Output = Result<T>>) -> Result<T> {
        let dead = || Err(Error::unexpected("the process was killed"));
        if self.has_died.load(Ordering::SeqCst) {
            return dead();
        }
        if self.left.fetch_sub(1, Ordering::SeqCst) > 1 {
            return change.await;
        }
        self.has_died.store(true, Ordering::SeqCst);
        if self.is_made {
            change.await?;
        }
        dead()
    }
}

impl Store for Dying {
    fn display(&self) -> String {
        self.store.display()
    }

    async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        self.store.list(folder, after).await
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        self.store.folders(folder).await
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        self.store.size(name).await
    }

    async fn read_if_any(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        self.reads.fetch_add(1, Ordering::SeqCst);
        self.store.read_if_any(name, offset, length).await
    }

    async fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        self.store.fetch(name, to).await
    }

    async fn create(&self, name: &str, content: Content<'_>) -> Result<Put> {
        if name.starts_with(names::PACK_MANIFESTS)
            && let Some(path) = self.stolen.lock().unwrap().take()
        {
            std::fs::remove_file(path).unwrap();
        }
        self.change(self.store.create(name, content)).await
    }

    async fn replace(&self, name: &str, content: Bytes) -> Result<()> {
        self.change(self.store.replace(name, content)).await
    }

    async fn remove(&self, name: &str) -> Result<()> {
        self.change(self.store.remove(name)).await
    }
}

/// Dies at each of its changes, before and after it; dies again at the next attempt's first; and is ended by a third.
#[test]
fn a_compaction_killed_at_any_step_loses_nothing_and_is_ended_by_the_next() {
    let model = grown();
    let shown = contents(&model);
    let size = three(&model);
    run(compact(
        &Packed::over(Directory::open(model.root()).unwrap()),
        &ReaderKeys::default(),
        &options(size),
    ))
    .unwrap();
    let expected = model.objects();
    assert_eq!(expected.iter().filter(|name| name.starts_with("packs/")).count(), 3, "{expected:?}");
    let mut deaths = 0;
    for change in 1.. {
        let mut is_over = false;
        for is_made in [false, true] {
            let built = grown();
            let attempt = |change, is_made| {
                let store = Packed::over(Dying::at(built.root(), change, is_made));
                run(compact(&store, &ReaderKeys::default(), &options(size)))
            };
            is_over = attempt(change, is_made).is_ok();
            if is_over {
                break;
            }
            deaths += 1;
            assert_whole(&built, &shown);
            let again = attempt(1, true);
            let rest = again.unwrap_or_else(|_| attempt(u64::MAX, false).unwrap());
            assert!(rest.done);
            assert_eq!(built.objects(), expected, "killed at change {change}");
            let report = ended("verify", &built, &[], 0);
            assert_eq!(report["notes"], json!([]), "killed at change {change}");
        }
        if is_over {
            break;
        }
    }
    // Three packs of two objects each, eight files of two.
    assert_eq!(deaths, 2 * (3 * 2 + 8 * 2));
    assert_whole(&model, &shown);
}

/// The process itself, at random moments.
#[test]
fn a_process_killed_at_random_moments_loses_nothing() {
    let mut rng = Rng::from_environment_or(23);
    let mut built = Built::new("a");
    built.rows = 200;
    for _ in 0..60 {
        built.file(Stored::Zstd);
    }
    let arguments = ["archive", "compact", built.root(), "--keep-last", "2"];
    let mut rounds = 0;
    loop {
        rounds += 1;
        let mut child = Command::new(env!("CARGO_BIN_EXE_pgdiode"))
            .args(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // Not slept to test anything: the moment is what is random, and ever later, so that one comes to its end.
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..10) + 2 * rounds));
        let _ = child.kill();
        let is_done = child.wait().unwrap().success();
        let report = ended("verify", &built, &[], 0);
        assert_eq!(report["files"], 60, "{report}");
        if is_done {
            break;
        }
    }
    let names = built.objects();
    assert_eq!(names.iter().filter(|name| name.contains(".json.zst")).count(), 2, "{names:?}");
}

#[test]
fn two_at_once_and_a_prune_beside_them_lose_nothing() {
    for seed in 0..6 {
        let built = grown();
        let shown = contents(&built);
        let size = three(&built);
        let root = built.root().to_owned();
        let packing = |pack_bytes: u64| {
            let root = root.clone();
            std::thread::spawn(move || {
                let store = Packed::over(Directory::open(root).unwrap());
                run(compact(&store, &ReaderKeys::default(), &options(pack_bytes)))
            })
        };
        // Alike, and with packs that overlap.
        let others = [size, size, size * 2 / 3 + seed, u64::MAX].map(packing);
        let pruned = (seed % 2 == 0).then(|| ended("prune", &built, &["--yes"], 0));
        for other in others {
            other.join().unwrap().unwrap();
        }
        let gone = pruned.map_or(0, |pruned| pruned["first_kept"].as_u64().unwrap() - 1);
        let store = Packed::over(Directory::open(built.root()).unwrap());
        run(compact(&store, &ReaderKeys::default(), &options(size))).unwrap();
        let left = shown.into_iter().filter(|(number, _)| *number > gone).collect();
        assert_whole(&built, &left);
        let notes = ended("verify", &built, &[], 0)["notes"].to_string();
        assert!(!notes.contains("singly"), "what is in a pack lies nowhere else: {notes}");
        let packs = std::fs::read_dir(built.path("meta/packs")).unwrap().count();
        assert!(packs > 0, "{:?}", built.objects());
    }
}

/// Another takes the pack for one that nobody finishes, at the worst moment.
#[test]
fn a_pack_that_goes_before_it_counts_takes_no_file_with_it() {
    let built = grown();
    let shown = contents(&built);
    let store = Dying::at(built.root(), u64::MAX, true);
    *store.stolen.lock().unwrap() = Some(built.path("packs/0000000001-0000000008.pack"));
    let store = Packed::over(store);
    let done = run(compact(&store, &ReaderKeys::default(), &options(u64::MAX))).unwrap();
    assert!(store.singly().stolen.lock().unwrap().is_none() && done.files == 8);
    assert_whole(&built, &shown);
}

/// Killed before it removed the single objects, of which nothing goes for a pack that is not whole any more.
#[test]
fn nothing_goes_for_a_pack_that_has_changed_since() {
    let built = grown();
    let other = grown();
    ended("compact", &other, &["--keep-last", "2"], 0);
    let (pack, own) = ("packs/0000000001-0000000008.pack", "meta/packs/0000000001-0000000008.json");
    let mut bytes = other.read(pack);
    let at = bytes.len() - 5;
    bytes[at] ^= 1;
    built.put(pack, &bytes);
    built.put(own, &other.read(own));
    let before = built.objects();
    let (status, _, err) = pgdiode(&["archive", "compact", built.root(), "--keep-last", "2"]);
    assert_eq!(status, 4, "{err}");
    assert!(err.contains(&format!("{pack}: 0000000008.json does not hold what was sealed")), "{err}");
    assert_eq!(built.objects(), before);
    // Nor for one that was never finished and is of something else.
    built.remove(own);
    let (status, _, err) = pgdiode(&["archive", "compact", built.root(), "--keep-last", "2"]);
    assert_eq!(status, 4, "{err}");
    assert!(err.contains(&format!("{pack} is there and is not what its files make")), "{err}");
    built.put(pack, &other.read(pack));
    ended("compact", &built, &["--keep-last", "2"], 0);
    assert_eq!(built.objects(), other.objects());
}

/// Two that did not know of each other have packed the same files, and a third has been given up.
#[test]
fn what_is_packed_twice_is_the_same_twice() {
    let (built, other) = (grown(), grown());
    let shown = contents(&built);
    for (built, size) in [(&built, three(&built)), (&other, u64::MAX)] {
        let store = Packed::over(Directory::open(built.root()).unwrap());
        run(compact(&store, &ReaderKeys::default(), &options(size))).unwrap();
    }
    for name in ["packs/0000000001-0000000008.pack", "meta/packs/0000000001-0000000008.json"] {
        built.put(name, &other.read(name));
    }
    // What was given up before it counted.
    built.put("packs/0000000002-0000000007.pack", b"begun");
    assert_whole(&built, &shown);
    let store = Packed::over(Directory::open(built.root()).unwrap());
    assert!(run(store.manifest(5)).unwrap().is_some(), "it knows all packs");
    let before = built.objects();
    let done = ended("compact", &built, &["--keep-last", "2"], 0);
    assert_eq!((&done["rest"], &done["packs"]), (&json!(0), &json!([])), "{done}");
    assert_eq!(built.objects(), before, "packs are left alone");
    let notes = ended("verify", &built, &[], 0)["notes"].clone();
    assert_eq!(notes[0]["what"], "this pack is not finished", "{notes}");
    // They go when their files may, finished or not.
    built.base(3, 9);
    ended("prune", &built, &["--forget-reader", "laptop", "--yes"], 0);
    assert!(!built.objects().iter().any(|name| name.contains("pack")), "{:?}", built.objects());
    assert!(run(store.manifest(5)).unwrap().is_some(), "as it was known");
    assert!(run(store.read("0000000005.json", 0, 1)).is_err());
    assert_eq!(run(store.manifest(5)).unwrap(), None);
}

#[test]
fn a_damaged_file_stops_it_by_name_and_nothing_goes() {
    let built = grown();
    let mut bytes = built.read("0000000004.json");
    let at = bytes.len() / 2;
    bytes[at] ^= 1;
    built.put("0000000004.json", &bytes);
    let before = built.objects();
    let (status, _, err) = pgdiode(&["archive", "compact", built.root(), "--keep-last", "2"]);
    assert_eq!(status, 4, "{err}");
    assert!(err.contains("0000000004.json does not hold what was sealed: its SHA-256 is "), "{err}");
    assert!(err.contains("hint: Nothing was removed"), "{err}");
    assert_eq!(built.objects(), before);

    built.remove("0000000004.json");
    let (status, _, err) = pgdiode(&["archive", "compact", built.root()]);
    assert!(
        status == 4 && err.contains("nothing is packed: 0000000004.json: it is missing"),
        "{status} {err}"
    );
    let spill = grown();
    spill.put(names::SPILL, b"{}");
    let (status, _, err) = pgdiode(&["archive", "compact", spill.root()]);
    assert!(status == 3 && err.contains("is the spill of a pipeline"), "{status} {err}");
}

#[test]
fn large_files_and_those_alone_stay_as_they_are() {
    let mut built = Built::new("a");
    for number in 1..=7 {
        built.rows = if number == 4 || number == 6 { 30_000 } else { 0 };
        built.file(Stored::Plain);
    }
    let done = ended("compact", &built, &["--keep-last", "1", "--pack-mb", "1"], 0);
    assert_eq!(done["packs"].as_array().unwrap().len(), 1);
    assert_eq!(
        (&done["packs"][0]["last"], &done["single"], &done["newest"]),
        (&json!(3), &json!(3), &json!(1))
    );
    assert_eq!(ended("verify", &built, &[], 0)["files"], 7);
}

/// Damage in a pack is told with the file, its line and where it lies.
#[test]
fn verify_names_what_is_wrong_in_a_pack() {
    let built = grown();
    let store = Packed::over(Directory::open(built.root()).unwrap());
    run(compact(&store, &ReaderKeys::default(), &options(three(&built)))).unwrap();
    let (pack, own) = (built.read(SECOND), "meta/packs/0000000004-0000000006.json");
    let text =
        String::from_utf8_lossy(&pack[..usize::try_from(built.sealed[3].stored_bytes).unwrap()]).into_owned();
    let mut damaged = text.replacen("\"op\":\"INSERT\"", "\"op\":\"INSERU\"", 1).into_bytes();
    damaged.extend_from_slice(&pack[damaged.len()..]);
    built.put(SECOND, &damaged);
    let report = ended("verify", &built, &[], 4);
    let finding = &report["findings"][0];
    assert_eq!((&finding["object"], &finding["line"]), (&json!("0000000004.json"), &json!(3)), "{report}");
    assert!(finding["what"].as_str().unwrap().ends_with(&format!(" (in {SECOND})")), "{report}");
    assert_eq!(report["findings"].as_array().unwrap().len(), 1);

    built.put(SECOND, &pack[1..]);
    let report = ended("verify", &built, &["--quick"], 4);
    assert_eq!(report["findings"][0]["object"], SECOND, "{report}");
    built.remove(SECOND);
    let report = ended("verify", &built, &[], 4);
    assert_eq!(report["findings"].as_array().unwrap().len(), 1, "{report}");
    assert_eq!(report["findings"][0]["what"], "it is missing, and its manifest is there");
    built.put(SECOND, &pack);
    let manifest = built.read(own);
    for bit in (0..manifest.len() * 8).step_by(997) {
        let mut flipped = manifest.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        built.put(own, &flipped);
        let report = ended("verify", &built, &["--quick"], 4);
        assert!(report["findings"].to_string().contains(own), "bit {bit}: {report}");
    }
    built.put(own, &manifest);
    assert_eq!(ended("verify", &built, &[], 0)["notes"], json!([]));
}

/// A program that does not know packs: files before the first single one are not there.
#[test]
fn who_does_not_know_packs_finds_a_gap() {
    let built = grown();
    ended("compact", &built, &["--keep-last", "2"], 0);
    std::fs::rename(built.path("meta/packs"), built.path("meta/unknown")).unwrap();
    let report = ended("verify", &built, &[], 4);
    assert_eq!(
        report["findings"][0]["what"], "files 1 to 8 are missing, and no prune has been recorded",
        "{report}"
    );
}

#[test]
fn a_pack_goes_when_all_of_it_may() {
    let built = grown();
    let size = three(&built);
    let store = Packed::over(Directory::open(built.root()).unwrap());
    run(compact(&store, &ReaderKeys::default(), &options(size))).unwrap();
    let shown = contents(&built);
    // The base needs the fifth, which lies between two that nobody needs.
    let plan = ended("prune", &built, &[], 0);
    assert_eq!((&plan["files"], &plan["first_kept"]), (&json!([1, 2, 3]), &json!(4)));
    assert_eq!(
        plan["kept_for"],
        json!([
            "base 2, the newest, goes on with file 5",
            format!("file 5 lies in {SECOND}, which goes as a whole")
        ])
    );
    let objects = plan["objects"].as_array().unwrap();
    let first = ["meta/packs/0000000001-0000000003.json", "packs/0000000001-0000000003.pack"];
    assert_eq!(objects[objects.len() - 2..], first.map(Value::from));
    // Killed anywhere, the next one ends it.
    let record = Pruned {
        format: 1,
        archive: "a".into(),
        number: 3,
        last: built.sealed[2].clone(),
        host: "db1".into(),
        pruned: super::built::NOW.into(),
    };
    built.put(&names::pruned(3), &manifest::text(&record));
    built.remove("meta/packs/0000000001-0000000003.json");
    assert_eq!(ended("verify", &built, &[], 0)["files"], 7);
    let rest = ended("prune", &built, &["--yes"], 0);
    assert!(
        rest["objects"].as_array().unwrap().contains(&json!("packs/0000000001-0000000003.pack")),
        "{rest}"
    );
    let left: BTreeMap<u64, String> = shown.into_iter().filter(|(number, _)| *number > 3).collect();
    assert_whole(&built, &left);
    assert_eq!(ended("verify", &built, &[], 0)["notes"], json!([]));
    built.base(3, 9);
    assert_eq!(
        ended("prune", &built, &["--forget-reader", "laptop", "--yes"], 0)["files"],
        json!([4, 5, 6, 7, 8])
    );
    assert!(!built.objects().iter().any(|name| name.contains("pack")), "{:?}", built.objects());
}

#[test]
fn ten_thousand_files_are_few_objects() {
    const FILES: u64 = 10_000;
    let mut built = Built::new("a");
    for _ in 0..FILES {
        built.file_of(&[], Stored::Plain);
    }
    let reads = || {
        let packed = Packed::over(Dying::at(built.root(), u64::MAX, true));
        run(async {
            for number in packed.sealed(0).await.unwrap() {
                assert!(packed.manifest(number).await.unwrap().is_some());
            }
        });
        packed.singly().reads.load(Ordering::SeqCst)
    };
    let (objects, read) = (built.objects().len(), reads());
    assert_eq!((objects, read), (20_002, FILES));
    let done = ended("compact", &built, &[], 0);
    assert_eq!((&done["files"], &done["packs"].as_array().unwrap().len()), (&json!(9_900), &10));
    let listed = ended("list", &built, &[], 0);
    assert_eq!((listed["files"].as_array().unwrap().len() as u64, &listed["findings"]), (FILES, &json!([])));
    // A hundred single files, ten packs, an identity and a claim.
    assert_eq!((built.objects().len(), reads()), (222, 110));
}
