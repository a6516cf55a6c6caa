use std::path::Path;

use crate::config::Config;
use crate::error::Kind;

use super::*;

fn parsed(server: &str) -> Result<ServerOptions> {
    let text = format!(
        "[pipeline.main]\nsource = \"postgresql://a@b/c\"\ntarget = \"postgresql://d@e/f\"\n[server]\n{server}\n"
    );
    Config::parse(Path::new("/etc/x.toml"), &text).map(|config| config.server.unwrap())
}

#[track_caller]
fn refused(server: &str, what: &str, hint: &str) {
    let error = parsed(server).unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.what().starts_with("/etc/x.toml:") && error.what().contains(what), "{error:?}");
    assert!(error.hint_text().is_some_and(|text| text.contains(hint)), "{error:?}");
}

#[test]
fn the_door_is_shut_without_its_section() {
    let text = "[pipeline.main]\nsource = \"postgresql://a@b/c\"\ntarget = \"postgresql://d@e/f\"\n";
    assert_eq!(Config::parse(Path::new("x.toml"), text).unwrap().server, None);
    let server = parsed("").unwrap();
    assert_eq!(server, ServerOptions::default());
    assert!(server.is_for_this_host() && server.metrics_are_public() && !server.is_https());
}

#[test]
fn paths_count_from_the_file() {
    let server = parsed("users_file = \"users\"\ntokens_file = \"/t\"").unwrap();
    assert_eq!(server.users_file.as_deref(), Some(Path::new("/etc/users")));
    assert_eq!(server.tokens_file.as_deref(), Some(Path::new("/t")));
}

#[test]
fn beyond_this_host_nothing_opens_without_tls_and_somebody_to_let_in() {
    let tls = "tls_certificate = \"c\"\ntls_key = \"k\"";
    let users = "users_file = \"u\"";
    let proxied = "behind_proxy = true\npublic_url = \"https://x.example\"";
    for address in
        ["0.0.0.0:8000", "[::]:8000", "10.0.0.1:8000", "[::ffff:10.0.0.1]:8000", "[::ffff:0.0.0.0]:1"]
    {
        let listen = format!("listen = \"{address}\"");
        refused(&listen, "there is no TLS", "tls_certificate and tls_key");
        refused(&format!("{listen}\n{users}"), "there is no TLS", "behind_proxy");
        refused(&format!("{listen}\n{tls}"), "nobody has to sign in", "pgdiode password");
        refused(&format!("{listen}\n{proxied}"), "nobody has to sign in", "users_file");
        for who in
            [users, "tokens_file = \"t\"", "proxy_user_header = \"X-User\"\ntrusted_proxies = [\"10.0.0.1\"]"]
        {
            for how in [tls, proxied] {
                let server = parsed(&format!("{listen}\n{how}\n{who}")).unwrap();
                assert!(!server.is_for_this_host() && !server.metrics_are_public(), "{address} {who} {how}");
            }
        }
    }
    for address in ["127.0.0.1:0", "127.9.9.9:8000", "[::1]:8000", "localhost:8000"] {
        assert!(parsed(&format!("listen = \"{address}\"")).unwrap().is_for_this_host(), "{address}");
    }
}

#[test]
fn whoever_comes_through_a_proxy_is_not_this_hosts_operator() {
    refused("public_url = \"https://x.example\"", "nobody has to sign in", "users_file");
    let tokens = parsed("public_url = \"https://x.example\"\ntokens_file = \"t\"").unwrap();
    assert!(!tokens.is_for_this_host());
    assert!(!parsed("users_file = \"u\"").unwrap().is_for_this_host());
    let header = parsed("proxy_user_header = \"X-User\"\ntrusted_proxies = [\"127.0.0.1\"]").unwrap();
    assert!(!header.is_for_this_host());
    // Tokens alone change nothing for people on this host.
    assert!(parsed("tokens_file = \"t\"").unwrap().is_for_this_host());
}

#[test]
fn what_does_not_fit_together_is_refused() {
    refused("listen = \"8000\"", "no IP address", "127.0.0.1:8000");
    refused("listen = \"example.com:8000\"", "no IP address", "127.0.0.1:8000");
    refused("tls_key = \"k\"", "belong together", "both");
    refused("proxy_user_header = \"X-User\"", "trusted_proxies is empty", "name the proxies");
    refused("proxy_user_header = \"X User\"\ntrusted_proxies = [\"::1\"]", "no header's name", "X-Auth");
    refused("trusted_proxies = [\"ten\"]", "no address and no network", "10.0.0.0/8");
    refused("behind_proxy = true\nusers_file = \"u\"", "proxy's address is missing", "public_url");
    refused("operators = [\"a b\"]", "cannot be a user's name", "letters");
    refused("operators = [\"a\"]\nauditors = [\"a\"]", "in operators and in auditors", "sees the audit log");
    for url in ["replica.example", "ftp://x", "https://", "https://x/path", "https://u@x", "https://x?y"] {
        refused(
            &format!("public_url = \"{url}\"\nusers_file = \"u\""),
            "no address of a server",
            "without a path",
        );
    }
}

#[test]
fn an_address_is_compared_as_browsers_write_it() {
    let of = |text| PublicUrl::parse(text).unwrap().origin();
    assert_eq!(of("https://Replica.Example.com/"), "https://replica.example.com");
    assert_eq!(of("https://x:443"), "https://x");
    assert_eq!(of("http://x:80/"), "http://x");
    assert_eq!(of("https://x:8443"), "https://x:8443");
    assert_eq!(of("http://[::1]:8000"), "http://[::1]:8000");
}
