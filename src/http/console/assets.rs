//! The style sheet and the script, as parts of the program. Their addresses hold a part of their hash, so that a browser
//! may keep them for ever.

use std::sync::LazyLock;

use crate::digest::sha256;

/// A file of the console; it may be kept for ever by whoever asked with its `v`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asset {
    pub content_type: &'static str,
    pub body: &'static [u8],
}

const CSS: Asset =
    Asset { content_type: "text/css; charset=utf-8", body: include_bytes!("../assets/console.css") };
const JS: Asset =
    Asset { content_type: "text/javascript; charset=utf-8", body: include_bytes!("../assets/console.js") };
const ICON: Asset = Asset { content_type: "image/svg+xml", body: include_bytes!("../assets/icon.svg") };

const ASSETS: [(&str, Asset); 3] = [("console.css", CSS), ("console.js", JS), ("icon.svg", ICON)];

/// What `/assets/{name}` answers.
pub fn asset(name: &str) -> Option<Asset> {
    ASSETS.iter().find(|(known, _)| *known == name).map(|(_, asset)| *asset)
}

/// The address of an asset; of an unknown name, one that nobody answers.
pub fn asset_url(name: &str) -> String {
    static VERSIONS: LazyLock<Vec<(&str, String)>> = LazyLock::new(|| {
        ASSETS.iter().map(|(name, asset)| (*name, sha256(asset.body)[..12].to_owned())).collect()
    });
    let version = VERSIONS.iter().find(|(known, _)| *known == name).map_or("", |(_, version)| version);
    format!("/assets/{name}?v={version}")
}
