//! What every kind of store must do, one suite run in all of them.

use std::fs;

use pgdiode::error::Kind;
use pgdiode::store::{AnyStore, Content, Put, Store as _};
use tokio::task::JoinSet;

use super::{Place, content_of, file_of, run};
use crate::harness::{S3Server, SshServer};

#[test]
fn a_directory_keeps_the_promises() {
    keeps_the_promises(&Place::directory());
}

#[test]
fn a_directory_over_sftp_keeps_the_promises() {
    keeps_the_promises(&Place::Ssh(SshServer::start()));
}

#[test]
fn a_directory_over_sftp_keeps_the_promises_without_the_extensions_that_it_prefers() {
    // The commands are those of the protocol; extensions that are not allowed are not offered either.
    let server = SshServer::start();
    server.configure("-P hardlink,fsync,limits,statvfs,copy-data");
    server.kill();
    server.start_again();
    keeps_the_promises(&Place::Ssh(server));
}

#[test]
fn a_bucket_keeps_the_promises() {
    keeps_the_promises(&Place::S3(S3Server::start()));
}

fn keeps_the_promises(place: &Place) {
    run(async {
        let root = async |name: &str| place.open(&place.root(name)).await;
        objects_are_listed_in_order(&root("listed").await).await;
        any_part_of_an_object_is_read(&root("read").await).await;
        an_object_is_never_made_twice(&root("twice").await).await;
        an_empty_object_is_one(&root("empty").await).await;
        one_writers_object_is_replaced_as_a_whole(place).await;
        names_that_are_not_plain_are_refused(&root("names").await).await;
        of_two_makers_one_wins(place).await;
        a_large_object_goes_and_comes_whole(&root("large").await).await;
        more_objects_than_a_page_has_are_listed(&root("many").await).await;
        a_create_that_is_dropped_leaves_all_or_nothing(&root("dropped").await).await;
    });
}

fn bytes(text: &'static str) -> Content<'static> {
    Content::Bytes(text.into())
}

async fn create(store: &AnyStore, name: &str, content: &'static str) {
    assert_eq!(store.create(name, bytes(content)).await.unwrap(), Put::Created, "{name}");
}

async fn names(store: &AnyStore, folder: &str, after: Option<&str>) -> Vec<String> {
    store.list(folder, after).await.unwrap().into_iter().map(|object| object.name).collect()
}

async fn objects_are_listed_in_order(store: &AnyStore) {
    assert_eq!(names(store, "", None).await, [""; 0]);
    assert_eq!(names(store, "meta/files", None).await, [""; 0]);
    assert_eq!(store.folders("").await.unwrap(), [""; 0]);
    for name in ["b", "a-1", "a", "a.json.zst", "B", "meta/archive.json", "meta/files/2", "meta/files/1"] {
        create(store, name, "1234").await;
    }
    assert_eq!(names(store, "", None).await, ["B", "a", "a-1", "a.json.zst", "b"]);
    assert_eq!(names(store, "", Some("a")).await, ["a-1", "a.json.zst", "b"]);
    // What comes after may not be there.
    assert_eq!(names(store, "", Some("a-")).await, ["a-1", "a.json.zst", "b"]);
    assert_eq!(names(store, "", Some("b")).await, [""; 0]);
    assert_eq!(names(store, "meta", None).await, ["meta/archive.json"]);
    assert_eq!(names(store, "meta/files", None).await, ["meta/files/1", "meta/files/2"]);
    assert_eq!(names(store, "meta/files", Some("meta/files/1")).await, ["meta/files/2"]);
    assert_eq!(store.folders("").await.unwrap(), ["meta"]);
    assert_eq!(store.folders("meta").await.unwrap(), ["meta/files"]);
    assert!(store.list("", None).await.unwrap().iter().all(|object| object.size == 4));
    assert_eq!(store.size("meta/files/1").await.unwrap(), Some(4));
    // A folder is no object.
    assert_eq!(store.size("meta/files").await.unwrap(), None);
    assert_eq!(store.read_if_any("meta/files", 0, 9).await.unwrap(), None);

    store.remove("meta/files/1").await.unwrap();
    store.remove("meta/files/1").await.unwrap();
    store.remove("nowhere/at/all").await.unwrap();
    assert_eq!(names(store, "meta/files", None).await, ["meta/files/2"]);
    create(store, "meta/files/1", "again").await;
}

async fn any_part_of_an_object_is_read(store: &AnyStore) {
    create(store, "object", "0123456789").await;
    for (offset, length, expected) in [
        (0, 10, "0123456789"),
        (0, 99, "0123456789"),
        (3, 4, "3456"),
        (8, 4, "89"),
        (10, 4, ""),
        (99, 4, ""),
        (4, 0, ""),
    ] {
        let read = store.read("object", offset, length).await.unwrap();
        assert_eq!(read, expected, "{length} from {offset}");
    }
    assert_eq!(store.read_all("object", 10).await.unwrap().unwrap(), "0123456789");
    let error = store.read_all("object", 9).await.unwrap_err();
    assert!(error.what().contains("object has more than 9 bytes"), "{error:?}");
    assert_eq!(store.read_all("absent", 9).await.unwrap(), None);
    assert_eq!(store.size("absent").await.unwrap(), None);
    assert_eq!(store.size("absent/too").await.unwrap(), None);
    let error = store.read("absent", 0, 9).await.unwrap_err();
    assert!(error.what().ends_with("there is no object absent") && error.hint_text().is_some(), "{error:?}");
    assert!(error.what().starts_with(&store.display()), "{error:?}");
}

async fn an_object_is_never_made_twice(store: &AnyStore) {
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", 100_000);
    assert_eq!(store.create("meta/object", Content::File(&file)).await.unwrap(), Put::Created);
    for content in [bytes("other"), Content::File(&file), bytes("")] {
        assert_eq!(store.create("meta/object", content).await.unwrap(), Put::Taken);
    }
    assert_eq!(store.read_all("meta/object", 100_000).await.unwrap().unwrap(), content_of(100_000));
    assert!(store.holds("meta/object", Content::File(&file)).await.unwrap());
    assert!(!store.holds("meta/object", bytes("other")).await.unwrap());
    assert!(!store.holds("absent", bytes("other")).await.unwrap());
    let error = store.create("more", Content::File(&local.path().join("absent"))).await.unwrap_err();
    assert!(error.what().contains("absent"), "{error:?}");
    assert_eq!(store.size("more").await.unwrap(), None);
}

async fn an_empty_object_is_one(store: &AnyStore) {
    create(store, "empty", "").await;
    assert_eq!(store.create("empty", bytes("more")).await.unwrap(), Put::Taken);
    assert_eq!(store.size("empty").await.unwrap(), Some(0));
    assert_eq!(store.read_all("empty", 10).await.unwrap().unwrap(), "");
    assert!(store.holds("empty", bytes("")).await.unwrap());
    let local = tempfile::tempdir().unwrap();
    store.fetch("empty", &local.path().join("fetched")).await.unwrap();
    assert_eq!(fs::read(local.path().join("fetched")).unwrap(), b"");
}

/// Whoever reads meanwhile sees one content or the other.
async fn one_writers_object_is_replaced_as_a_whole(place: &Place) {
    let location = place.root("replaced");
    let (store, reader) = (place.open(&location).await, place.open(&location).await);
    let content = |byte: u8| vec![byte; 300_000];
    store.replace("meta/readers/li.json", content(0).into()).await.unwrap();
    let reading = async {
        let mut seen = 0;
        while seen < 9 {
            let read = reader.read_all("meta/readers/li.json", 400_000).await.unwrap().unwrap();
            assert_eq!(read, content(read[0]));
            seen = read[0];
        }
    };
    let writing = async {
        for byte in 1..10 {
            store.replace("meta/readers/li.json", content(byte).into()).await.unwrap();
        }
    };
    tokio::join!(reading, writing);
    assert_eq!(names(&store, "meta/readers", None).await, ["meta/readers/li.json"]);
    assert_eq!(store.create("meta/readers/li.json", bytes("")).await.unwrap(), Put::Taken);
}

async fn names_that_are_not_plain_are_refused(store: &AnyStore) {
    for name in ["", "/a", "a/", "a//b", "..", "../a", ".partial/a", "a b", "ä", "a\nb", "a*"] {
        let errors = [
            store.create(name, bytes("x")).await.unwrap_err(),
            store.replace(name, "x".into()).await.unwrap_err(),
            store.size(name).await.unwrap_err(),
            store.read(name, 0, 1).await.unwrap_err(),
            store.remove(name).await.unwrap_err(),
            store.fetch(name, "/nowhere".as_ref()).await.unwrap_err(),
        ];
        for error in errors {
            assert!(error.kind() == Kind::Config && error.what().contains("cannot be the name"), "{error:?}");
        }
    }
    for folder in ["..", "a/../..", "/"] {
        assert!(store.list(folder, None).await.is_err() && store.folders(folder).await.is_err());
    }
    assert_eq!(names(store, "", None).await, [""; 0]);
}

async fn of_two_makers_one_wins(place: &Place) {
    let location = place.root("raced");
    for round in 0..5 {
        let name = format!("meta/epochs/{round}");
        let barrier = std::sync::Arc::new(tokio::sync::Barrier::new(6));
        let mut makers = JoinSet::new();
        for maker in 0..6_u8 {
            // Each has a connection of its own, as another process would.
            let (store, barrier, name) = (place.open(&location).await, barrier.clone(), name.clone());
            makers.spawn(async move {
                barrier.wait().await;
                let put = store.create(&name, Content::Bytes(vec![maker; 70_000].into())).await.unwrap();
                (maker, put)
            });
        }
        let won: Vec<u8> = makers
            .join_all()
            .await
            .into_iter()
            .filter_map(|(maker, put)| (put == Put::Created).then_some(maker))
            .collect();
        assert_eq!(won.len(), 1, "{won:?} all made {name}");
        let content = place.open(&location).await.read_all(&name, 70_000).await.unwrap().unwrap();
        assert_eq!(content, vec![won[0]; 70_000]);
    }
}

async fn a_large_object_goes_and_comes_whole(store: &AnyStore) {
    // Above what S3 takes in one request.
    const LENGTH: usize = 40 * 1024 * 1024 + 17;
    let local = tempfile::tempdir().unwrap();
    let file = file_of(local.path(), "content", LENGTH);
    assert_eq!(store.create("bases/1/table.copy", Content::File(&file)).await.unwrap(), Put::Created);
    assert_eq!(store.create("bases/1/table.copy", Content::File(&file)).await.unwrap(), Put::Taken);
    assert_eq!(store.size("bases/1/table.copy").await.unwrap(), Some(LENGTH as u64));
    let fetched = local.path().join("fetched");
    store.fetch("bases/1/table.copy", &fetched).await.unwrap();
    assert!(fs::read(&fetched).unwrap() == content_of(LENGTH), "another content came");
    assert_eq!(fs::read_dir(local.path()).unwrap().count(), 2, "the fetch left something behind");
    // Nothing of the way there is to be seen.
    assert_eq!(store.folders("").await.unwrap(), ["bases"]);
    assert_eq!(names(store, "", None).await, [""; 0]);

    // Dropped in the middle, it goes on from what has come.
    fs::remove_file(&fetched).unwrap();
    let part = || {
        let part = fs::read_dir(local.path()).unwrap().flatten();
        part.filter(|entry| entry.file_name().to_string_lossy().starts_with(".fetched"))
            .filter_map(|entry| entry.metadata().ok())
            .map(|metadata| metadata.len())
            .find(|length| *length > 0)
    };
    let until_some_came = async {
        while part().is_none() {
            tokio::task::yield_now().await;
        }
    };
    tokio::select! {
        () = until_some_came => {}
        fetched = store.fetch("bases/1/table.copy", &fetched) => panic!("it was to be dropped: {fetched:?}"),
    }
    assert!(!fetched.exists());
    store.fetch("bases/1/table.copy", &fetched).await.unwrap();
    assert!(fs::read(&fetched).unwrap() == content_of(LENGTH), "another content came");
}

async fn more_objects_than_a_page_has_are_listed(store: &AnyStore) {
    const OBJECTS: usize = 1010;
    let name = |number: usize| format!("meta/files/{number:010}.json");
    futures_util::future::join_all((0..16).map(|share| async move {
        for number in (share..OBJECTS).step_by(16) {
            create(store, &name(number), "{}").await;
        }
    }))
    .await;
    let expected: Vec<String> = (0..OBJECTS).map(name).collect();
    assert_eq!(names(store, "meta/files", None).await, expected);
    assert_eq!(names(store, "meta/files", Some(&name(4))).await, expected[5..]);
}

async fn a_create_that_is_dropped_leaves_all_or_nothing(store: &AnyStore) {
    let local = tempfile::tempdir().unwrap();
    const LENGTH: usize = 3 * 1024 * 1024;
    let file = file_of(local.path(), "content", LENGTH);
    for polls in 0..40 {
        let name = format!("dropped-{polls}");
        let mut create = Box::pin(store.create(&name, Content::File(&file)));
        for _ in 0..polls * 4 {
            if futures_util::poll!(&mut create).is_ready() {
                break;
            }
            tokio::task::yield_now().await;
        }
        drop(create);
        let size = store.size(&name).await.unwrap();
        assert!(size.is_none_or(|size| size == LENGTH as u64), "{size:?} bytes after {polls}");
    }
    create(store, "later", "it works").await;
    let listed = store.list("", None).await.unwrap();
    assert!(listed.iter().all(|object| object.size == LENGTH as u64 || object.name == "later"), "{listed:?}");
}
