//! The servers of these scenarios are tested too: a harness that cannot fail proves nothing.

use crate::harness::{Authority, Proxy, RedisClient, RedisCluster, RedisServer, RedisVersion, Reply, ground};

#[test]
fn every_version_starts_answers_and_comes_back_empty() {
    for version in RedisVersion::ALL {
        let redis = RedisServer::start(version, &[]);
        let number = redis.info("server", version_field(version));
        assert!(number.starts_with(expected_number(version)), "{version} is {number}");
        redis.cli(&["SET", "k", "v"]);
        assert_eq!(redis.cli(&["GET", "k"]), "v");
        let (port, run) = (redis.port(), redis.info("server", "run_id"));
        redis.kill();
        assert!(!redis.is_running());
        redis.try_cli(&["PING"]).expect_err("a killed server answered");
        redis.start_again();
        assert_eq!(redis.port(), port);
        assert_ne!(redis.info("server", "run_id"), run);
        assert_eq!(redis.cli(&["GET", "k"]), "", "{version} kept what it was not told to keep");
    }
}

fn version_field(version: RedisVersion) -> &'static str {
    if version == RedisVersion::Valkey9 { "valkey_version" } else { "redis_version" }
}

fn expected_number(version: RedisVersion) -> &'static str {
    match version {
        RedisVersion::V6_2 => "6.2.",
        RedisVersion::V7_0 => "7.0.",
        RedisVersion::V7_4 => "7.4.",
        RedisVersion::Valkey9 => "9.",
    }
}

#[test]
fn what_is_to_be_kept_is_kept() {
    for version in RedisVersion::ALL {
        let saving = RedisServer::start(version, &[("save", "3600 1000000")]);
        saving.cli(&["SET", "k", "v"]);
        saving.stop();
        saving.start_again();
        assert_eq!(saving.cli(&["GET", "k"]), "v", "{version} lost it although it was stopped in order");
        saving.cli(&["SET", "k", "w"]);
        saving.kill();
        saving.start_again();
        assert_eq!(saving.cli(&["GET", "k"]), "v", "{version}: a power cut goes back to the last save");
    }
    let appending =
        RedisServer::start(RedisVersion::V7_0, &[("appendonly", "yes"), ("appendfsync", "always")]);
    appending.cli(&["SET", "k", "v"]);
    appending.kill();
    appending.start_again();
    assert_eq!(appending.cli(&["GET", "k"]), "v");
}

#[test]
fn users_need_their_passwords_and_may_do_what_they_may() {
    for version in RedisVersion::ALL {
        let reader = "reader on >secret ~chat:* resetchannels +get +ping";
        let redis = RedisServer::start(version, &[("requirepass", "sesame"), ("user", reader)]);
        redis.cli(&["SET", "chat:1", "v"]);
        let mut nobody = RedisClient::connect(redis.port()).unwrap();
        assert!(nobody.try_call(&["GET", "chat:1"]).unwrap_err().starts_with("NOAUTH"), "{version}");
        assert!(
            nobody.try_call(&["AUTH", "reader", "wrong"]).unwrap_err().starts_with("WRONGPASS"),
            "{version}"
        );
        nobody.call(&["AUTH", "reader", "secret"]);
        assert_eq!(nobody.call(&["GET", "chat:1"]), Reply::Bulk(b"v".to_vec()));
        for forbidden in [&["GET", "other"][..], &["SET", "chat:1", "w"]] {
            assert!(
                nobody.try_call(forbidden).unwrap_err().starts_with("NOPERM"),
                "{version}: {forbidden:?}"
            );
        }
    }
}

#[test]
fn a_pipeline_of_any_length_is_answered_in_order() {
    let redis = RedisServer::start(RedisVersion::V7_0, &[]);
    let binary = [0, b'\r', b'\n', 0xff];
    let mut client = redis.client();
    client.call(&[b"SET".as_slice(), b"k", &binary]);
    assert_eq!(client.call(&["GET", "k"]), Reply::Bulk(binary.to_vec()));
    let replies = client.pipeline((0..2_001).map(|_| ["INCR", "n"]));
    let numbers: Vec<i64> = replies.iter().map(Reply::integer).collect();
    assert_eq!(numbers, (1..=2_001).collect::<Vec<_>>());
    let replies =
        client.pipeline([vec!["LPUSH", "k", "a"], vec!["LRANGE", "none", "0", "-1"], vec!["GET", "none"]]);
    assert!(matches!(&replies[0], Reply::Error(error) if error.starts_with("WRONGTYPE")), "{replies:?}");
    assert_eq!(replies[1..], [Reply::Array(Vec::new()), Reply::Nil]);
}

#[test]
fn a_replica_follows_and_can_be_promoted() {
    let primary = RedisServer::start(RedisVersion::V7_0, &[("requirepass", "sesame")]);
    primary.cli(&["SET", "k", "v"]);
    let replica = RedisServer::start_replica(RedisVersion::V7_0, &primary, &[]);
    assert_eq!(replica.cli(&["GET", "k"]), "v");
    assert!(replica.try_cli(&["SET", "k", "w"]).unwrap_err().starts_with("READONLY"));
    primary.cli(&["SET", "k", "w"]);
    replica.wait_until("the write", |client| client.call(&["GET", "k"]).to_string() == "w");
    primary.kill();
    replica.cli(&["REPLICAOF", "NO", "ONE"]);
    replica.cli(&["SET", "k", "x"]);
    assert_eq!(replica.info("replication", "role"), "master");
}

#[test]
fn a_proxy_stands_before_a_server() {
    let redis = RedisServer::start(RedisVersion::V7_0, &[]);
    let proxy = Proxy::start(redis.port());
    let mut client = RedisClient::connect(proxy.port()).unwrap();
    client.call(&["SET", "k", "v"]);
    proxy.cut();
    client.try_call(&["GET", "k"]).expect_err("the proxy is cut");
    proxy.heal();
    assert_eq!(RedisClient::connect(proxy.port()).unwrap().call(&["GET", "k"]), Reply::Bulk(b"v".to_vec()));
}

#[test]
fn three_nodes_are_a_cluster() {
    for version in [RedisVersion::V7_0, RedisVersion::Valkey9] {
        let cluster = RedisCluster::start(version);
        for number in 0..30 {
            let key = format!("key:{number}");
            cluster.cli(&key, &["SET", &key, "v"]);
        }
        let sizes: Vec<u64> =
            cluster.nodes().iter().map(|node| node.cli(&["DBSIZE"]).parse().unwrap()).collect();
        assert_eq!(sizes.iter().sum::<u64>(), 30);
        assert!(sizes.iter().all(|size| *size > 0), "{version}: {sizes:?}");
    }
}

#[test]
fn the_module_of_json_is_there() {
    for version in RedisVersion::ALL.into_iter().filter(|version| version.has_json()) {
        let redis = RedisServer::start(version, &[]);
        redis.cli(&["JSON.SET", "doc", "$", r#"{"a":[1,2]}"#]);
        assert_eq!(redis.cli(&["JSON.GET", "doc", "$.a[1]"]), "[2]");
        assert_eq!(redis.cli(&["TYPE", "doc"]), "ReJSON-RL");
    }
}

#[test]
fn a_port_with_tls_is_there_where_the_build_has_it() {
    for version in RedisVersion::WITH_TLS {
        let redis = RedisServer::start_tls(version, &Authority::new("an authority"), &[]);
        redis.cli(&["SET", "k", "v"]);
        let mut plain = RedisClient::connect(redis.tls_port()).unwrap();
        assert!(plain.try_call(&["GET", "k"]).is_err(), "{version}: the port of TLS talks in the clear");
    }
}

#[test]
fn no_server_stays_and_one_with_a_wrong_option_does_not_start() {
    let redis = RedisServer::start(RedisVersion::V7_0, &[]);
    let pid = redis.info("server", "process_id").parse().expect("a number");
    assert!(ground::is_running(pid));
    drop(redis);
    assert!(!ground::is_running(pid), "a server outlives its scenario");
    let unusable =
        std::panic::catch_unwind(|| RedisServer::start(RedisVersion::V7_0, &[("no-such-option", "1")]));
    assert!(unusable.is_err(), "the server took an option that there is none of");
}
