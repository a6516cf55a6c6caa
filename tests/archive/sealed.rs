//! An archive on a machine that is not trusted: encrypted to recipients, signed by its writer. What that machine's owner
//! can do is done here. The oracles are `age` and `ssh-keygen`.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use pgdiode::archive::manifest::{self, Base, Claim, Manifest};
use pgdiode::archive::names::{self, Stored};
use pgdiode::archive::pack::Pack;
use pgdiode::archive::signing::{self, Signer};
use pgdiode::digest::sha256;
use pgdiode::position::Lsn;
use serde::de::DeserializeOwned;

use super::circle::Circle;
use crate::harness::{Cluster, PgdiodeRun, Rng, Version, ground};

/// Standard output of a program that must succeed. `scripts/install` brings them.
fn output(program: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{program}: {error}"));
    let mut stdin = child.stdin.take().unwrap();
    let input = input.to_vec();
    let feeding = std::thread::spawn(move || std::io::Write::write_all(&mut stdin, &input));
    let ended = child.wait_with_output().unwrap();
    // Whoever has seen enough does not read the rest.
    drop(feeding.join().unwrap());
    assert!(ended.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&ended.stderr));
    ended.stdout
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap().trim().to_owned()
}

/// Keys as operators make them.
struct Keys(PathBuf);

impl Keys {
    fn new() -> Keys {
        Keys(ground::fresh_directory("keys"))
    }

    /// The file of an identity of this name, made when it is first asked for.
    fn identity(&self, name: &str) -> PathBuf {
        let path = self.0.join(format!("{name}.age"));
        if !path.exists() {
            output("age-keygen", &["-o", path.to_str().unwrap()], b"");
        }
        path
    }

    fn recipient(&self, name: &str) -> String {
        let printed = output("age-keygen", &["-y", self.identity(name).to_str().unwrap()], b"");
        String::from_utf8(printed).unwrap().trim().to_owned()
    }

    /// The same for signing.
    fn signing(&self, name: &str) -> PathBuf {
        let path = self.0.join(name);
        if !path.exists() {
            let arguments = ["-q", "-t", "ed25519", "-N", "", "-C", "a test", "-f", path.to_str().unwrap()];
            output("ssh-keygen", &arguments, b"");
        }
        path
    }

    fn public(&self, name: &str) -> String {
        text(&self.signing(name).with_extension("pub"))
    }

    fn write(&self, recipients: &[&str], signer: &str) -> String {
        let recipients: Vec<String> = recipients.iter().map(|name| self.recipient(name)).collect();
        let signing = self.signing(signer);
        format!("archive.recipients = {recipients:?}\narchive.signing_key = \"{}\"\n", signing.display())
    }

    fn read(&self, identity: &str, signers: &[&str]) -> String {
        let identity = self.identity(identity);
        format!("archive.identity = \"{}\"\n{}", identity.display(), self.believe(signers))
    }

    fn believe(&self, signers: &[&str]) -> String {
        let signers: Vec<String> = signers.iter().map(|name| self.public(name)).collect();
        format!("archive.signed_by = {signers:?}\n")
    }
}

const TABLES: &str = "
    create table entry (id bigserial primary key, v text); insert into entry (v) select 'geheim' || n from generate_series(1, 50) n;
    create table counter (id int primary key, n int not null); insert into counter select n, 0 from generate_series(1, 5) n;
    create procedure work(steps int) language plpgsql as $$ begin
      for step in 1 .. steps loop
        insert into entry (v) values ('geheim' || step);
        update counter set n = n + 1 where id = 1 + step % 5;
        commit;
      end loop; end $$;";

struct Ground {
    source: Cluster,
    archive: PathBuf,
    keys: Keys,
}

impl Ground {
    fn new() -> Ground {
        let source = Cluster::start(Version::V15, &[]);
        source.psql("postgres", "create database app");
        source.psql("app", TABLES);
        Ground { source, archive: ground::fresh_directory("archive"), keys: Keys::new() }
    }

    /// A writer with lines of `[pipeline.out]`.
    fn writer(&self, lines: &str) -> PgdiodeRun {
        let pgdiode = PgdiodeRun::new(&format!(
            "[pipeline.out]\nsource = \"{}\"\ntarget = \"{}\"\narchive.file_seconds = 0\ntables = [\"public.*\"]\n{lines}",
            self.source.conninfo("app"),
            self.archive.display()
        ));
        pgdiode.run(&["setup", "--yes"]).success();
        pgdiode
    }

    /// Encrypted to `laptop`, signed by `production`: a base, and some files.
    fn filled() -> Ground {
        let ground = Ground::new();
        let writer = ground.writer(&ground.keys.write(&["laptop"], "production"));
        ground.append(&writer, 3);
        ground.append(&writer, 4);
        ground
    }

    fn append(&self, writer: &PgdiodeRun, steps: u32) {
        self.work(steps);
        once(writer);
    }

    fn work(&self, steps: u32) {
        self.source.psql("app", &format!("call work({steps})"));
    }

    /// A new reader of all tables, into a database of its own on the source's server.
    fn reader(&self, lines: &str) -> Reader {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let database = format!("laptop{}", NEXT.fetch_add(1, Ordering::Relaxed));
        self.source.psql("postgres", &format!("create database {database}"));
        let pgdiode = PgdiodeRun::new(&format!(
            "[pipeline.laptop]\nsource = \"{}\"\ntarget = \"{}\"\n{lines}",
            self.archive.display(),
            self.source.conninfo(&database)
        ));
        Reader { pgdiode, database }
    }

    fn assert_alike(&self, reader: &Reader) {
        for table in ["entry", "counter"] {
            let sql = format!("select json_agg(t order by id) from {table} t");
            let here = self.source.psql(&reader.database, &sql);
            assert_eq!(here, self.source.psql("app", &sql), "table {table}");
            assert!(here.len() > 50, "the oracle sees {here}");
        }
    }

    /// A new reader must end so, and say all of these.
    fn refused(&self, lines: &str, status: i32, parts: &[&str]) {
        let said = self.reader(lines).pgdiode.run(&["start", "--once-caught-up"]).failure(status);
        for part in parts.iter().chain(&["hint:"]) {
            assert!(said.contains(part), "{part} is not in: {said}");
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.archive.join(name)
    }

    fn get<T: DeserializeOwned>(&self, name: &str) -> T {
        manifest::parse(name, &fs::read(self.path(name)).unwrap()).unwrap()
    }

    /// Of the newest file.
    fn newest(&self) -> Manifest {
        self.manifests().pop().unwrap()
    }

    fn manifests(&self) -> Vec<Manifest> {
        let mut names = listed(&self.path(names::MANIFESTS));
        names.sort();
        names.iter().map(|name| self.get(&format!("{}/{name}", names::MANIFESTS))).collect()
    }

    fn archive_verb(&self, arguments: &[&str]) -> crate::harness::Output {
        let place = self.archive.to_str().unwrap();
        PgdiodeRun::new("").run(&[&["archive"], arguments, &[place]].concat())
    }

    /// What a verification that must find something prints.
    fn found(&self, arguments: &[&str]) -> String {
        let ran = self.archive_verb(&[&["verify"], arguments].concat());
        assert_eq!(ran.status.code(), Some(4), "{}\n{}", ran.stdout, ran.stderr);
        ran.stdout
    }

    fn verified(&self) -> String {
        let (identity, public) = (self.keys.identity("laptop"), self.keys.public("production"));
        let arguments = ["verify", "--identity", identity.to_str().unwrap(), "--signed-by", &public];
        self.archive_verb(&arguments).success()
    }

    /// What is changed is put back.
    fn while_changed(&self, name: &str, content: Option<&[u8]>, look: impl FnOnce()) {
        let kept = fs::read(self.path(name)).ok();
        put(&self.path(name), content);
        look();
        put(&self.path(name), kept.as_deref());
    }
}

fn put(path: &Path, content: Option<&[u8]>) {
    match content {
        Some(content) => fs::write(path, content).unwrap(),
        None => fs::remove_file(path).unwrap(),
    }
}

struct Reader {
    pgdiode: PgdiodeRun,
    database: String,
}

fn once(pgdiode: &PgdiodeRun) {
    pgdiode.run(&["start", "--once-caught-up"]).success();
}

fn listed(folder: &Path) -> Vec<String> {
    let names = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    names.filter(|name| !name.starts_with('.')).collect()
}

/// Every object below a folder.
fn objects(root: &Path, below: &str) -> Vec<String> {
    let mut found = Vec::new();
    for name in listed(&root.join(below)) {
        let name = if below.is_empty() { name } else { format!("{below}/{name}") };
        if root.join(&name).is_dir() {
            found.extend(objects(root, &name));
        } else {
            found.push(name);
        }
    }
    found
}

/// As `docs/archive-format.md` has it: by `jq`, coreutils and `ssh-keygen`.
const CHECK_SIGNATURE: &str = "
    (echo '-----BEGIN SSH SIGNATURE-----'; jq -r .signature $0 | fold -w 70; echo '-----END SSH SIGNATURE-----') > $1/signature
    head -n -3 $0 | head -c -2 |
      ssh-keygen -Y verify -f $1/allowed_signers -I writer -n pgdiode-archive:$0 -s $1/signature";

fn assert_signed(keys: &Keys, signer: &str, root: &Path, name: &str) {
    fs::write(keys.0.join("allowed_signers"), format!("writer {}\n", keys.public(signer))).unwrap();
    let checked = Command::new("sh")
        .args(["-c", CHECK_SIGNATURE, name, keys.0.to_str().unwrap()])
        .current_dir(root)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&checked.stdout);
    assert!(checked.status.success() && said.contains("Good"), "{name}: {checked:?}");
}

/// `age -d`, then `zstd -d`.
fn opened(identity: &Path, path: &Path) -> Vec<u8> {
    let arguments = ["-d", "-i", identity.to_str().unwrap(), path.to_str().unwrap()];
    let content = output("age", &arguments, b"");
    if Stored::of(path.to_str().unwrap()).is_compressed() {
        return output("zstd", &["-dc"], &content);
    }
    content
}

#[test]
fn everything_arrives_encrypted_and_signed() {
    let (keys, archive) = (Keys::new(), ground::fresh_directory("archive"));
    let end = format!("archive = \"{}\"", archive.display());
    let of_writer = keys.write(&["laptop", "safe"], "production");
    let of_reader = keys.read("laptop", &["production"]);
    let circle = Circle::with_lines(&end, &[], [&of_writer, &of_reader]);
    let mut rng = Rng::from_environment_or(1);
    circle.through();
    circle.assert_alike();
    circle.work(&mut rng, 80);
    circle.through();
    circle.assert_alike();
    // What lies there, by other programs.
    let is_meta = |name: &&String| name.starts_with("meta/") || name.ends_with("manifest.json");
    let all = objects(&archive, "");
    let (meta, data): (Vec<_>, Vec<_>) = all.iter().partition(is_meta);
    assert!(data.len() > 20 && data.iter().all(|name| name.ends_with(".zst.age")), "{data:?}");
    for name in data.iter().filter(|name| !name.starts_with("bases")) {
        let content = opened(&keys.identity("safe"), &archive.join(name));
        let own = names::manifest(names::parse_change_file(name).unwrap().0);
        let manifest: Manifest = manifest::parse(&own, &fs::read(archive.join(&own)).unwrap()).unwrap();
        assert_eq!(sha256(&content), manifest.content_sha256, "{name}");
    }
    let base: Base =
        manifest::parse("a base", &fs::read(archive.join(names::base_manifest(1))).unwrap()).unwrap();
    let schema = opened(&keys.identity("laptop"), &archive.join(&base.schema.name));
    assert!(String::from_utf8(schema).unwrap().contains("CREATE TABLE"));
    assert_eq!(base.schema.content_sha256, None, "a hash of its content would tell what to guess");
    let signed = meta.iter().filter(|name| !name.starts_with("meta/readers"));
    let signed = signed.inspect(|name| assert_signed(&keys, "production", &archive, name)).count();
    assert!(signed > 4, "{meta:?}");
    // The verbs of both sides, as they are configured.
    for pgdiode in [&circle.writer, &circle.reader] {
        let said = pgdiode.run(&["archive", "verify"]).success();
        assert!(said.contains("intact") && said.contains("signed by  SHA256:"), "{said}");
    }
    let status = circle.reader.run(&["status"]).success();
    assert!(status.contains("0 behind, the last sealed at 20"), "{status}");
}

/// Whoever packs has no key; whoever reads believes what the files' writer has signed, and nothing else.
#[test]
fn packs_need_no_key_and_change_no_signature() {
    let ground = Ground::new();
    let writer = ground.writer(&ground.keys.write(&["laptop"], "production"));
    (0..4).for_each(|_| ground.append(&writer, 3));
    let before = ground.manifests();
    let said = ground.archive_verb(&["compact", "--keep-last", "1"]).success();
    assert!(said.contains("packed     files 1 to "), "{said}");
    assert_eq!(ground.manifests(), before[before.len() - 1..]);
    assert!(ground.verified().contains("intact"));
    let pack = format!("meta/packs/{}", listed(&ground.path("meta/packs"))[0]);
    let whole = fs::read(ground.path(&pack)).unwrap();
    let mut said: Pack = manifest::parse(&pack, &whole).unwrap();
    for file in &said.files {
        let name = names::manifest(file.number);
        assert!(signing::signer_of(&name, file.manifest.as_bytes()).unwrap().is_some(), "{name}");
    }
    let lines = ground.keys.read("laptop", &["production"]);
    let mut reader = ground.reader(&lines);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);

    // One that nobody has signed, with a checksum that agrees.
    let unsigned = Manifest { sealed: "2026-01-01T00:00:00Z".into(), ..before[1].clone() };
    said.files[1].manifest = String::from_utf8(manifest::text(&unsigned)).unwrap();
    ground.while_changed(&pack, Some(&manifest::text(&said)), || {
        ground.refused(&lines, 4, &["meta/files/0000000002.json", "not signed"]);
    });
    // Its own, at another's place.
    let mut swapped: Pack = manifest::parse(&pack, &whole).unwrap();
    let first = swapped.files[0].manifest.clone();
    swapped.files[1].manifest = first;
    ground.while_changed(&pack, Some(&manifest::text(&swapped)), || {
        ground.refused(&lines, 4, &["meta/files/0000000002.json"]);
    });
    reader = ground.reader(&lines);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
}

#[test]
fn no_region_of_any_object_may_be_another() {
    let ground = Ground::filled();
    let lines = ground.keys.read("laptop", &["production"]);
    let base: Base = ground.get(&names::base_manifest(1));
    let newest = ground.newest();
    let rows = &base.tables.iter().find(|table| table.table == "entry").unwrap().pieces[0].name;
    let objects = [
        names::IDENTITY,
        &names::base_manifest(1),
        &names::manifest(newest.number),
        &base.schema.name,
        rows,
        &newest.name,
    ];
    for name in objects {
        let whole = fs::read(ground.path(name)).unwrap();
        let find = |part: &str| whole.windows(part.len()).position(|window| window == part.as_bytes());
        let last = whole.len() - 1;
        let regions = if Stored::of(name).is_encrypted() {
            // The magic line, a recipient's share, its key, the header's check, the nonce, the first and the last piece.
            let check = find("\n--- ").unwrap();
            vec![3, find("X25519 ").unwrap() + 10, check - 5, check + 10, check + 52, check + 70, last]
        } else {
            // A name, a value, the signature, the checksum.
            let [archive, signature, sum] =
                ["\"archive\"", "\"signature\"", "\"sum\""].map(|part| find(part).unwrap());
            vec![archive + 2, archive + 14, signature + 150, signature + 300, sum + 10]
        };
        for at in regions {
            let mut flipped = whole.clone();
            flipped[at] ^= 1;
            ground.while_changed(name, Some(&flipped), || {
                ground.refused(&lines, 4, &[name]);
                let found = ground.found(&[]);
                assert!(found.contains(name), "byte {at} of {name}: {found}");
            });
        }
        // Nor cut off, nor gone, but for an identity or a base: that would be no archive, or one without a base.
        ground.while_changed(name, Some(&whole[..last]), || ground.refused(&lines, 4, &[name]));
    }
    let reader = ground.reader(&lines);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    ground.verified();
}

#[test]
fn only_who_has_the_key_can_read() {
    let ground = Ground::filled();
    let keys = &ground.keys;
    let all = objects(&ground.archive, "");
    let is_told = |name: &String| {
        let bytes = fs::read(ground.path(name)).unwrap();
        bytes.windows(6).any(|window| window == b"geheim")
    };
    assert!(!all.iter().any(is_told), "a value lies there in the clear");
    let schema = "bases/0000000001/schema.sql.age";
    ground.refused(&keys.believe(&["production"]), 3, &[schema, "no identity", "archive.identity"]);
    ground.refused(&keys.read("stranger", &["production"]), 3, &[schema, "not encrypted to any key"]);
    // The reader's own, and a file of several, work; one that others can read does not.
    let several = keys.0.join("several");
    fs::write(&several, [text(&keys.identity("stranger")), text(&keys.identity("laptop"))].join("\n"))
        .unwrap();
    let lines = format!("archive.identity = {several:?}\n{}", keys.believe(&["production"]));
    ground.refused(&lines, 2, &["can be used by others than its owner", "chmod 600"]);
    output("chmod", &["600", several.to_str().unwrap()], b"");
    let reader = ground.reader(&lines);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    // A signed archive can be read without a word of whose it must be, and that is said once.
    let reader = ground.reader(&format!("archive.identity = {:?}\n", keys.identity("laptop")));
    let ran = reader.pgdiode.run(&["start", "--once-caught-up", "-vv"]);
    assert_eq!(ran.stderr.matches("archive.signed_by does not say").count(), 1, "{}", ran.stderr);
    let secret = text(&keys.identity("laptop")).lines().last().unwrap().to_owned();
    assert!(!ran.stderr.contains(&secret) && !ran.stdout.contains(&secret), "a key is in the log");
    ran.success();
    ground.assert_alike(&reader);
}

/// The owner of the machine has a key too, and everything that was ever signed.
#[test]
fn only_who_has_the_key_can_write() {
    let ground = Ground::filled();
    let keys = &ground.keys;
    let lines = keys.read("laptop", &["production"]);
    let newest = ground.newest();
    let own = names::manifest(newest.number);
    let attacker = Signer::load(&keys.signing("attacker")).unwrap();
    // Unsigned, signed by another, and with the writer's signature on what it has not signed.
    let forged = Manifest { records: newest.records + 1, ..newest.clone() };
    let writers = fs::read(ground.path(&own)).unwrap();
    let (_, signature) = signing::signed_part(&writers).unwrap();
    let signature = std::str::from_utf8(signature).unwrap();
    let others = String::from_utf8(manifest::signed_text(&own, &forged, Some(&attacker))).unwrap();
    let (_, wrong) = signing::signed_part(others.as_bytes()).unwrap();
    let moved = others.replace(std::str::from_utf8(wrong).unwrap(), signature);
    let (moved, _) = moved.rsplit_once(",\n  \"sum\"").unwrap();
    let moved = format!("{moved},\n  \"sum\": \"{}\"\n}}\n", sha256(moved.as_bytes()));
    let before = fs::read(ground.path(&names::manifest(newest.number - 1))).unwrap();
    let cases: [(&[u8], &str); 4] = [
        (&manifest::text(&newest), "is not signed"),
        (others.as_bytes(), "is signed by another key, SHA256:"),
        (moved.as_bytes(), "has a signature that is not valid"),
        // The file before under this number.
        (&before, "has a signature that is not valid"),
    ];
    for (content, said) in cases {
        ground.while_changed(&own, Some(content), || ground.refused(&lines, 4, &[&own, said]));
    }
    // The same of a base, and of the identity.
    for name in [names::base_manifest(1), names::IDENTITY.to_owned()] {
        let unsigned: serde_json::Value = ground.get(&name);
        let mut unsigned = unsigned.as_object().unwrap().clone();
        unsigned.remove("signature");
        unsigned.remove("sum");
        unsigned.insert("archive".into(), "another".into());
        ground.while_changed(&name, Some(&manifest::text(&unsigned)), || {
            ground.refused(&lines, 4, &[&name, "is not signed"]);
        });
        let theirs = manifest::signed_text(&name, &unsigned, Some(&attacker));
        ground.while_changed(&name, Some(&theirs), || ground.refused(&lines, 4, &[&name, "another key"]));
    }
    ground.refused(&keys.read("laptop", &["attacker"]), 4, &[names::IDENTITY, "another key"]);
    // In the place of the archive, files that nobody signs: there is no way around the signatures.
    let away = ground.archive.with_extension("away");
    fs::rename(&ground.archive, &away).unwrap();
    fs::create_dir(&ground.archive).unwrap();
    fs::write(ground.path("1.json"), "{\"table\":\"entry\",\"op\":\"DELETE\",\"old_keys\":{\"id\":1}}\n")
        .unwrap();
    ground.refused(&lines, 3, &["this is no archive"]);
    ground.refused(&format!("{lines}archive.dialect = \"seed\"\n"), 2, &["nobody signs files of dialect"]);
    fs::remove_dir_all(&ground.archive).unwrap();
    fs::rename(&away, &ground.archive).unwrap();
    let reader = ground.reader(&lines);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    ground.verified();
}

/// Two archives of one writer: each file's manifest is genuine, and of the other.
#[test]
fn what_was_signed_for_another_archive_is_refused() {
    let (ground, other) = (Ground::filled(), Ground::new());
    let [key, public] = ["", ".pub"].map(|end| format!("production{end}"));
    for name in [&key, &public] {
        drop(ground.keys.signing("production"));
        fs::copy(ground.keys.0.join(name), other.keys.0.join(name)).unwrap();
    }
    let writer = other.writer(&other.keys.write(&["laptop"], "production"));
    other.append(&writer, 3);
    other.append(&writer, 4);
    let lines = ground.keys.read("laptop", &["production"]);
    let newest = ground.newest();
    let theirs = other.manifests().into_iter().find(|manifest| manifest.number == newest.number).unwrap();
    assert_eq!(theirs.name, newest.name, "both count alike");
    let own = names::manifest(newest.number);
    let [manifest, file] = [&own, &newest.name].map(|name| fs::read(other.path(name)).unwrap());
    ground.while_changed(&own, Some(&manifest), || {
        ground.while_changed(&newest.name, Some(&file), || {
            ground.refused(&lines, 4, &[&own, "belongs to archive"]);
        });
    });
    ground.while_changed(&newest.name, Some(&file), || ground.refused(&lines, 4, &[&newest.name]));
}

#[test]
fn a_writer_killed_at_any_moment_goes_on_without_reading_what_it_wrote() {
    let ground = Ground::new();
    let writer = ground.writer(&ground.keys.write(&["laptop"], "production"));
    let mut rng = Rng::from_environment_or(3);
    for _ in 0..8 {
        let mut running = writer.spawn(&["start"]);
        let work = ground.source.spawn_psql("app", "call work(80)");
        // Not slept to test anything: the moment is what is random.
        std::thread::sleep(std::time::Duration::from_millis(rng.u64(0..1200)));
        running.kill9();
        work.wait().unwrap();
    }
    once(&writer);
    let reader = ground.reader(&ground.keys.read("laptop", &["production"]));
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    ground.verified();
}

/// A file without a manifest: of a writer that was killed, or of whoever owns the machine. It is neither read nor signed.
#[test]
fn a_file_that_nobody_sealed_is_passed_over() {
    let ground = Ground::filled();
    let writer = ground.writer(&ground.keys.write(&["laptop"], "production"));
    let leftover = fs::read(ground.path(&ground.newest().name)).unwrap();
    let number = ground.newest().number + 1;
    let planted = names::change_file(number, Stored::Age);
    fs::write(ground.path(&planted), &leftover).unwrap();
    ground.append(&writer, 3);
    let sealed: Manifest = ground.get(&names::manifest(number));
    let claim: Claim = ground.get(&format!("{}/{:010}.json", names::EPOCHS, sealed.epoch));
    assert_eq!(sealed.name, names::superseding_file(number, claim.epoch, Stored::Age));
    assert_eq!(fs::read(ground.path(&planted)).unwrap(), leftover, "nothing is written over");
    ground.append(&writer, 3);
    // In another form, and in one that a trusting writer would seal.
    let number = ground.newest().number + 1;
    fs::write(ground.path(&names::change_file(number, Stored::Plain)), "{\"op\":\"ARCHIVE\"}\n").unwrap();
    ground.append(&writer, 3);
    assert_eq!(
        ground.get::<Manifest>(&names::manifest(number)).name,
        names::change_file(number, Stored::Age)
    );
    let said = ground.verified();
    assert!(said.contains("intact") && said.matches("it was never sealed").count() == 2, "{said}");
    let shown =
        ["show", &sealed.number.to_string(), "--identity", ground.keys.identity("laptop").to_str().unwrap()]
            .map(str::to_owned);
    let shown = ground.archive_verb(&shown.each_ref().map(String::as_str)).success();
    assert!(
        shown.starts_with(&format!("{{\"op\":\"ARCHIVE\",\"format\":1,\"archive\":\"{}\"", sealed.archive))
    );
    let reader = ground.reader(&ground.keys.read("laptop", &["production"]));
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
}

/// What a writer goes on from is not believed either: it would lead it past what the source has.
#[test]
fn a_writer_does_not_go_on_from_what_it_has_not_signed() {
    let ground = Ground::filled();
    let keys = &ground.keys;
    let lines = keys.write(&["laptop"], "production");
    let writer = ground.writer(&lines);
    let newest = ground.newest();
    let (number, from) = (newest.number + 1, newest.to);
    let own = names::manifest(number);
    let forged = Manifest { number, from, to: Lsn(from.0 + (1 << 40)), ..newest.clone() };
    let attacker = Signer::load(&keys.signing("attacker")).unwrap();
    let refused = |writer: &PgdiodeRun, status: i32, part: &str| {
        let said = writer.run(&["start", "--once-caught-up"]).failure(status);
        assert!(said.contains(part) && said.contains("hint:"), "{said}");
        let said = writer.run(&["archive", "base"]).failure(status);
        assert!(said.contains(part), "{said}");
    };
    fs::write(ground.path(&own), manifest::text(&forged)).unwrap();
    refused(&writer, 3, "is not signed, and archive.signing_key is set");
    fs::write(ground.path(&own), manifest::signed_text(&own, &forged, Some(&attacker))).unwrap();
    refused(&writer, 4, "is signed by another key");
    fs::remove_file(ground.path(&own)).unwrap();
    // Nor does it end to sign or to encrypt by a line that was forgotten.
    let recipients = lines.lines().next().unwrap();
    let signing = lines.lines().nth(1).unwrap();
    let said = ground.writer(recipients).run(&["start", "--once-caught-up"]).failure(3);
    assert!(
        said.contains("is signed by SHA256:") && said.contains("archive.signing_key is not set"),
        "{said}"
    );
    let said = ground.writer(signing).run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("is encrypted, and there are no archive.recipients"), "{said}");
    ground.append(&writer, 1);
    ground.verified();
}

#[test]
fn an_archive_may_begin_to_be_encrypted_and_not_to_be_signed() {
    let ground = Ground::new();
    ground.append(&ground.writer(""), 3);
    let recipients = format!("archive.recipients = [\"{}\"]\n", ground.keys.recipient("laptop"));
    // Encrypted once, and killed before that file was sealed: it does not go back by itself.
    let number = ground.newest().number + 1;
    fs::write(ground.path(&names::change_file(number, Stored::Age)), "a file of a killed writer").unwrap();
    let said = ground.writer("").run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("is encrypted, and there are no archive.recipients"), "{said}");
    ground.append(&ground.writer(&recipients), 3);
    let forms: Vec<Stored> = ground.manifests().iter().map(|manifest| Stored::of(&manifest.name)).collect();
    assert!(forms.contains(&Stored::Plain) && forms.contains(&Stored::Age), "{forms:?}");
    let reader = ground.reader(&format!("archive.identity = {:?}", ground.keys.identity("laptop")));
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    let signing = format!("{recipients}archive.signing_key = {:?}", ground.keys.signing("production"));
    let said = ground.writer(&signing).run(&["start", "--once-caught-up"]).failure(3);
    assert!(said.contains("is signed from its first object on"), "{said}");
}

#[test]
fn keys_change_while_the_archive_goes_on() {
    let ground = Ground::filled();
    let keys = &ground.keys;
    let reader = ground.reader(&keys.read("laptop", &["production", "later"]));
    once(&reader.pgdiode);
    // The writer's next key; it says whose the files before are. Another laptop joins, the old one still reads.
    let said = ground.writer(&keys.write(&["laptop", "newer"], "later")).run(&["start"]).failure(4);
    assert!(said.contains("archive.signed_by"), "{said}");
    let writer = ground.writer(&(keys.write(&["laptop", "newer"], "later") + &keys.believe(&["production"])));
    ground.append(&writer, 5);
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
    ground.refused(&keys.read("laptop", &["later"]), 4, &["is signed by another key"]);
    let old = ground.reader(&keys.read("laptop", &["production"])).pgdiode;
    let said = old.run(&["start", "--once-caught-up"]).failure(4);
    assert!(said.contains(&names::manifest(ground.newest().number)), "{said}");
    // The old ones are withdrawn once a base is there that needs nothing of them.
    let writer = ground.writer(&(keys.write(&["newer"], "later") + &keys.believe(&["production"])));
    writer.run(&["archive", "base"]).success();
    ground.append(&writer, 5);
    for reader in listed(&ground.path(names::READERS)) {
        let name = reader.strip_suffix(".json").unwrap();
        ground.archive_verb(&["prune", "--yes", "--forget-reader", name]).success();
    }
    let newer = ground.reader(&keys.read("newer", &["later"]));
    once(&newer.pgdiode);
    ground.assert_alike(&newer);
    let writer = ground.writer(&keys.write(&["newer"], "later"));
    ground.append(&writer, 5);
    once(&newer.pgdiode);
    ground.assert_alike(&newer);
    let later = keys.public("later");
    ground.archive_verb(&["verify", "--signed-by", &later]).success();
    ground.refused(&keys.read("laptop", &["later"]), 3, &["is not encrypted to any key"]);
}

#[test]
fn verbs_look_as_far_as_they_can() {
    let ground = Ground::filled();
    let keys = &ground.keys;
    let newest = ground.newest();
    let (identity, public) = (keys.identity("laptop"), keys.public("production"));
    let identity = identity.to_str().unwrap();
    let closed = ground.archive_verb(&["verify"]).success();
    assert!(
        closed.contains("intact") && closed.contains("encrypted objects: what is stored has its hash"),
        "{closed}"
    );
    assert!(closed.contains("whether that is its writer can be told with --signed-by"), "{closed}");
    let opened = ground.archive_verb(&["verify", "--identity", identity, "--signed-by", &public, "--json"]);
    let opened: serde_json::Value = serde_json::from_str(&opened.success()).unwrap();
    assert_eq!((&opened["closed"], &opened["notes"]), (&0.into(), &serde_json::json!([])), "{opened}");
    assert_eq!(opened["records"], 8, "what came after the base: {opened}");
    let attacker = keys.public("attacker");
    let found = ground.found(&["--signed-by", &attacker]);
    assert!(found.contains("it is signed by another key") && found.contains(names::IDENTITY), "{found}");
    let stranger = keys.identity("stranger");
    let found = ground.archive_verb(&["verify", "--identity", stranger.to_str().unwrap()]).success();
    assert!(found.contains("closed "), "{found}");
    // One manifest among signed ones is not.
    let own = names::manifest(newest.number);
    ground.while_changed(&own, Some(&manifest::text(&newest)), || {
        let found = ground.found(&[]);
        assert!(found.contains(&format!("{own}: it is not signed, and others")), "{found}");
        ground.archive_verb(&["prune", "--yes"]).failure(4);
    });
    let number = newest.number.to_string();
    let said = ground.archive_verb(&["show", &number]).failure(3);
    assert!(said.contains("is encrypted") && said.contains("--identity"), "{said}");
    let shown = ground.archive_verb(&["show", &number, "--identity", identity]).success();
    assert!(shown.contains("geheim") && shown.contains("\"salt\":\""), "{shown}");
    let listed = ground.archive_verb(&["list"]).success();
    assert!(listed.contains(&newest.name), "{listed}");
    let said = ground.archive_verb(&["list", "--signed-by", "ssh-rsa AAAA"]).failure(2);
    assert!(said.contains("is no public key of ed25519"), "{said}");
}

/// Nothing is begun with a key that cannot be used, and the key is not shown.
#[test]
fn keys_that_cannot_be_used_are_told() {
    let ground = Ground::new();
    let keys = &ground.keys;
    let locked = keys.0.join("locked");
    output("ssh-keygen", &["-q", "-t", "ed25519", "-N", "a passphrase", "-f", locked.to_str().unwrap()], b"");
    let rsa = keys.0.join("rsa");
    output("ssh-keygen", &["-q", "-t", "rsa", "-N", "", "-f", rsa.to_str().unwrap()], b"");
    let open = keys.signing("open");
    output("chmod", &["640", open.to_str().unwrap()], b"");
    let identity = keys.identity("laptop");
    for (key, said) in [
        (&locked, "it has a passphrase"),
        (&rsa, "it is no key of ed25519"),
        (&identity, "it is no private key of OpenSSH"),
        (&open, "can be used by others than its owner"),
        (&keys.0.join("nowhere"), "cannot read signing key"),
    ] {
        let writer = ground.writer(&format!("archive.signing_key = {key:?}"));
        let told = writer.run(&["start", "--once-caught-up"]).failure(2);
        assert!(told.contains(said) && told.contains("hint:"), "{told}");
        let checked = writer.run(&["check"]);
        assert!(!checked.status.success() && checked.stdout.contains(said), "{checked:?}");
        assert!(!told.contains("AGE-SECRET-KEY") && !told.contains("PRIVATE KEY-----"), "{told}");
    }
    for (line, said) in [
        ("archive.recipients = [\"age1nonsense\"]", "\"age1nonsense\" is no recipient"),
        ("archive.signed_by = [\"AAAA\"]", "\"AAAA\" is no public key"),
        ("archive.recipients_file = \"nowhere\"", "cannot read archive.recipients_file"),
    ] {
        let pgdiode = PgdiodeRun::new(&format!(
            "[pipeline.out]\nsource = \"{}\"\ntarget = \"{}\"\n{line}",
            ground.source.conninfo("app"),
            ground.archive.display()
        ));
        let told = pgdiode.run(&["start"]).failure(2);
        assert!(told.contains(said), "{told}");
    }
    assert!(listed(&ground.archive).is_empty(), "nothing was begun");
    let told = ground.writer(&keys.write(&["laptop", "safe"], "production")).run(&["check"]).success();
    let public = keys.public("production");
    let public = public.strip_suffix(" a test").unwrap();
    assert!(told.contains("encrypted to 2 recipients") && told.contains(public), "{told}");
    // A file of recipients, with a comment.
    let file = keys.0.join("recipients");
    fs::write(&file, format!("# the laptops\n{}\n\n", keys.recipient("laptop"))).unwrap();
    let writer = ground.writer(&format!("archive.recipients_file = {file:?}"));
    ground.append(&writer, 3);
    let reader = ground.reader(&format!("archive.identity = {identity:?}"));
    once(&reader.pgdiode);
    ground.assert_alike(&reader);
}
