//! Objects below a prefix of a bucket, on Amazon's S3 or a server that speaks its language.
//!
//! A small object is one conditional put (`If-None-Match: *`). A large one goes up in parts to a key of its own below
//! `.partial/`, and is copied to its name by the server itself, on the same condition; memory stays bounded. A server
//! that ignores the condition would let two writers overwrite each other: before the first object is made, it is tried.
//! Requests are repeated by the client a few times; after that the place counts as out of reach.

use std::fmt;
use std::path::Path as FilePath;
use std::time::Duration;

use bytes::Bytes;
use object_store::aws::{AmazonS3, AmazonS3Builder, AmazonS3ConfigKey, S3CopyIfNotExists};
use object_store::client::HttpError;
use object_store::list::{PaginatedListOptions, PaginatedListStore};
use object_store::path::Path as Key;
use object_store::{
    ClientOptions, CopyMode, CopyOptions, Error as S3Error, GetOptions, GetRange, ObjectStore,
    ObjectStoreExt, PutMode, PutOptions, PutPayload, RetryConfig,
};
use tokio::sync::OnceCell;

use super::fetch::Stride;
use super::{Content, Object, OpenContent, Put, S3Options, Store, name, piece_length};
use crate::error::{Error, Kind, Result, Side};

/// Up to here an object is one request, which is in memory as a whole.
const WHOLE_BYTES_MAX: u64 = 32 * 1024 * 1024;

const PART_BYTES: usize = 8 * 1024 * 1024;
const PARTS_IN_FLIGHT: usize = 4;

/// What S3 copies in one request.
const OBJECT_BYTES_MAX: u64 = 5 * 1024 * 1024 * 1024;

const STRIDE: Stride = Stride { length: PART_BYTES, in_flight: PARTS_IN_FLIGHT };

const CONNECT_MAX: Duration = Duration::from_secs(10);

/// For the largest request, over a slow line.
const REQUEST_MAX: Duration = Duration::from_mins(3);

const RETRIES_MAX: usize = 3;
const RETRYING_MAX: Duration = Duration::from_secs(30);

/// Two conditional puts at once can both be told to try again.
const CONFLICTS_MAX: usize = 5;

/// What is taken from the environment: who we are and the region, never where to go.
const FROM_ENVIRONMENT: [&str; 10] = [
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_SESSION_TOKEN",
    "AWS_DEFAULT_REGION",
    "AWS_REGION",
    "AWS_WEB_IDENTITY_TOKEN_FILE",
    "AWS_ROLE_ARN",
    "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI",
    "AWS_CONTAINER_CREDENTIALS_FULL_URI",
    "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE",
];

pub struct S3 {
    client: AmazonS3,
    /// For people.
    location: String,
    bucket: String,
    /// Empty, or with a slash at its end.
    prefix: String,
    side: Side,
    /// Set once the server is known to heed conditions.
    heeds_conditions: OnceCell<()>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S3({})", self.location)
    }
}

impl S3 {
    /// Asks the bucket for one name, so that a wrong bucket or key shows here.
    pub async fn open(
        bucket: &str,
        prefix: &str,
        endpoint: Option<&str>,
        region: Option<&str>,
        options: &S3Options,
        side: Side,
    ) -> Result<S3> {
        let location = super::Location::S3 {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            region: region.map(str::to_owned),
        }
        .to_string();
        let client = build(bucket, endpoint, region, options).map_err(|error| {
            Error::config(format!("{location} cannot be used"))
                .because(error)
                .hint("set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, both or neither")
        })?;
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        let heeds_conditions = OnceCell::new();
        let store = S3 { client, location, bucket: bucket.to_owned(), prefix, side, heeds_conditions };
        let one = PaginatedListOptions { max_keys: Some(1), ..PaginatedListOptions::default() };
        match store.client.list_paginated(Some(&store.prefix), one).await {
            Ok(_) => Ok(store),
            Err(error) => Err(store.failed("", &error)),
        }
    }

    fn key(&self, name: &str) -> Result<Key> {
        Key::parse(format!("{}{name}", self.prefix))
            .map_err(|error| Error::config(format!("{name:?} cannot be a key")).because(error))
    }

    /// Objects and folders directly in `folder`, relative to the root, in byte order.
    async fn entries(&self, folder: &str, after: Option<&str>) -> Result<(Vec<Object>, Vec<String>)> {
        name::check_folder(folder)?;
        let prefix =
            if folder.is_empty() { self.prefix.clone() } else { format!("{}{folder}/", self.prefix) };
        let inside = |key: &Key| {
            let part = key.as_ref().strip_prefix(&prefix)?;
            name::is_plain(part).then(|| name::join(folder, part))
        };
        let (mut objects, mut folders) = (Vec::new(), Vec::new());
        let mut page_token = None;
        loop {
            let options = PaginatedListOptions {
                offset: after.map(|after| format!("{}{after}", self.prefix)),
                delimiter: Some("/".into()),
                page_token,
                ..PaginatedListOptions::default()
            };
            let page = self.client.list_paginated(Some(&prefix), options).await;
            let page = page.map_err(|error| self.failed(folder, &error))?;
            objects.extend(page.result.objects.iter().filter_map(|object| {
                inside(&object.location).map(|name| Object { name, size: object.size })
            }));
            folders.extend(page.result.common_prefixes.iter().filter_map(inside));
            page_token = page.page_token;
            if page_token.is_none() {
                break;
            }
        }
        // Not every server begins after the name, or keeps the order.
        objects.retain(|object: &Object| after.is_none_or(|after| object.name.as_str() > after));
        objects.sort();
        folders.sort();
        Ok((objects, folders))
    }

    /// Puts bytes where nothing is. A conflict with a put at the same time is no answer yet.
    async fn put_if_absent(&self, name: &str, bytes: &Bytes) -> Result<Put> {
        let key = self.key(name)?;
        for _ in 0..CONFLICTS_MAX {
            let options = PutOptions { mode: PutMode::Create, ..PutOptions::default() };
            match self.client.put_opts(&key, PutPayload::from(bytes.clone()), options).await {
                Ok(_) => return Ok(Put::Created),
                Err(error) if !is_taken(&error) => return Err(self.failed(name, &error)),
                Err(_) if self.size_of(&key, name).await?.is_some() => return Ok(Put::Taken),
                Err(_) => {}
            }
        }
        Err(self.conflict(name))
    }

    /// Up in parts, then copied on the same condition.
    async fn copy_if_absent(&self, name: &str, length: u64, content: &OpenContent<'_>) -> Result<Put> {
        if length > OBJECT_BYTES_MAX {
            return Err(Error::config(format!(
                "{name} has {length} bytes, and S3 copies objects of up to 5 GiB"
            ))
            .hint("make smaller objects: smaller change files, smaller pieces of tables"));
        }
        let key = self.key(name)?;
        if self.size_of(&key, name).await?.is_some() {
            return Ok(Put::Taken);
        }
        let unfinished = self.key(&format!("{}/{}", name::UNFINISHED, name::unfinished(name)))?;
        self.put_parts(&unfinished, name, length, content).await?;
        let put = self.copy(&unfinished, &key, name).await;
        let _ = self.client.delete(&unfinished).await;
        put
    }

    async fn put_parts(&self, key: &Key, name: &str, length: u64, content: &OpenContent<'_>) -> Result<()> {
        let failed = |error: S3Error| self.failed(name, &error);
        let upload = self.client.put_multipart(key).await.map_err(failed)?;
        let mut upload = object_store::WriteMultipart::new_with_chunk_size(upload, PART_BYTES);
        let mut offset = 0;
        while offset < length {
            let piece = content.piece(offset, piece_length(offset, length, PART_BYTES));
            let ready = upload.wait_for_capacity(PARTS_IN_FLIGHT).await.map_err(failed);
            match ready.and(piece) {
                Ok(piece) => {
                    offset += piece.len() as u64;
                    upload.put(piece);
                }
                Err(error) => {
                    let _ = upload.abort().await;
                    return Err(error);
                }
            }
        }
        upload.finish().await.map(drop).map_err(failed)
    }

    async fn copy(&self, from: &Key, to: &Key, name: &str) -> Result<Put> {
        for _ in 0..CONFLICTS_MAX {
            let options = CopyOptions { mode: CopyMode::Create, ..CopyOptions::default() };
            match self.client.copy_opts(from, to, options).await {
                Ok(()) => return Ok(Put::Created),
                Err(error) if !is_taken(&error) => return Err(self.failed(name, &error)),
                Err(_) if self.size_of(to, name).await?.is_some() => return Ok(Put::Taken),
                Err(_) => {}
            }
        }
        Err(self.conflict(name))
    }

    /// Puts twice what must be put once.
    async fn try_conditions(&self) -> Result<()> {
        let probe = format!("{}/{}", name::UNFINISHED, name::unfinished("probe"));
        let bytes = Bytes::from_static(b"a server that takes this twice overwrites\n");
        let first = self.put_if_absent(&probe, &bytes).await?;
        let second = self.put_if_absent(&probe, &bytes).await;
        let _ = self.client.delete(&self.key(&probe)?).await;
        if (first, second?) == (Put::Created, Put::Taken) {
            return Ok(());
        }
        Err(Error::refused(format!("{}: this server ignores If-None-Match", self.location)).hint(
            "two writers would overwrite each other's objects there: use a server that has conditional writes, as \
             Amazon's and MinIO's do",
        ))
    }

    async fn size_of(&self, key: &Key, name: &str) -> Result<Option<u64>> {
        match self.client.head(key).await {
            Ok(object) => Ok(Some(object.size)),
            Err(S3Error::NotFound { .. }) => Ok(None),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    fn conflict(&self, name: &str) -> Error {
        Error::new(
            self.side.unreachable(),
            format!(
                "{}: the server saw other writes of {name} at the same time, again and again",
                self.location
            ),
        )
        .hint("does another process write the same archive?")
    }

    /// What a failed request means. Only the status tells a wrong request from a server in trouble.
    fn failed(&self, name: &str, error: &S3Error) -> Error {
        let place =
            if name.is_empty() { self.location.clone() } else { format!("{}, {name}", self.location) };
        match (error, status(error)) {
            (S3Error::NotFound { .. }, _) | (_, Some(404)) => Error::config(format!("{place}: there is no bucket {}", self.bucket))
                .hint("create the bucket, or correct its name, the region and the endpoint"),
            (S3Error::PermissionDenied { .. } | S3Error::Unauthenticated { .. }, _) | (_, Some(401 | 403)) => {
                Error::refused(format!("{place}: the server does not let us do this")).hint(
                    "check AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, this machine's clock, and that the key may list, get, put \
                     and delete objects below the prefix",
                )
            }
            (_, Some(507)) => Error::new(Kind::Capacity, format!("{place}: no space is left on the server"))
                .hint("make room there, or raise the quota"),
            (_, Some(300..=499)) if !matches!(status(error), Some(408 | 429)) => {
                Error::config(format!("{place}: the server refuses the request"))
                    .hint("check the bucket's name, the region and the endpoint")
            }
            (_, Some(_)) => Error::new(self.side.unreachable(), format!("{place}: the server is in trouble"))
                .hint("look at the server's log; its disk may be full"),
            _ if is_about_http(error) => {
                Error::new(self.side.unreachable(), format!("{place}: the server cannot be reached"))
                    .hint("is the endpoint right, and does it need http:// or https://?")
            }
            _ => Error::unexpected(format!("{place}: the request failed"))
                .hint("check the endpoint and the credentials; this is no answer of an S3 server"),
        }
        .because(reason(error))
    }
}

fn build(
    bucket: &str,
    endpoint: Option<&str>,
    region: Option<&str>,
    options: &S3Options,
) -> Result<AmazonS3, S3Error> {
    let client = ClientOptions::new().with_timeout(REQUEST_MAX).with_connect_timeout(CONNECT_MAX);
    let retry =
        RetryConfig { max_retries: RETRIES_MAX, retry_timeout: RETRYING_MAX, ..RetryConfig::default() };
    let is_given = options.access_key_id.is_some() || options.secret_access_key.is_some();
    let mut builder = AmazonS3Builder::new();
    // The environment's key and token belong together: all of it or none.
    for variable in FROM_ENVIRONMENT.into_iter().filter(|name| !is_given || name.ends_with("REGION")) {
        if let (Ok(value), Ok(key)) =
            (std::env::var(variable), variable.to_lowercase().parse::<AmazonS3ConfigKey>())
        {
            builder = builder.with_config(key, value);
        }
    }
    if let Some(id) = &options.access_key_id {
        builder = builder.with_access_key_id(id);
    }
    if let Some(secret) = &options.secret_access_key {
        builder = builder.with_secret_access_key(secret.reveal());
    }
    if let Some(token) = &options.session_token {
        builder = builder.with_token(token.reveal());
    }
    if let Some(region) = region {
        builder = builder.with_region(region);
    }
    if let Some(endpoint) = endpoint {
        builder = builder.with_endpoint(endpoint);
    }
    builder
        .with_bucket_name(bucket)
        .with_client_options(client)
        .with_allow_http(endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")))
        .with_retry(retry)
        .with_copy_if_not_exists(S3CopyIfNotExists::Multipart)
        .build()
}

impl Store for S3 {
    fn display(&self) -> String {
        self.location.clone()
    }

    async fn list(&self, folder: &str, after: Option<&str>) -> Result<Vec<Object>> {
        Ok(self.entries(folder, after).await?.0)
    }

    async fn folders(&self, folder: &str) -> Result<Vec<String>> {
        Ok(self.entries(folder, None).await?.1)
    }

    async fn size(&self, name: &str) -> Result<Option<u64>> {
        name::check(name)?;
        self.size_of(&self.key(name)?, name).await
    }

    async fn read_if_any(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        name::check(name)?;
        let key = self.key(name)?;
        if length == 0 {
            return Ok(self.size_of(&key, name).await?.map(|_| Bytes::new()));
        }
        let range = GetRange::Bounded(offset..offset.saturating_add(length as u64));
        let options = GetOptions { range: Some(range), ..GetOptions::default() };
        let answer = match self.client.get_opts(&key, options).await {
            Ok(answer) => answer.bytes().await,
            Err(error) => Err(error),
        };
        match answer {
            Ok(bytes) => Ok(Some(bytes)),
            Err(S3Error::NotFound { .. }) => Ok(None),
            // Nothing is at or after the end.
            Err(error) if status(&error) == Some(416) => Ok(Some(Bytes::new())),
            Err(error) => Err(self.failed(name, &error)),
        }
    }

    async fn fetch(&self, name: &str, to: &FilePath) -> Result<()> {
        let Some(size) = self.size(name).await? else {
            return self.read(name, 0, 0).await.map(drop);
        };
        let object = format!("{}{name} in {}", self.prefix, self.location);
        super::fetch::fetch(&object, size, to, STRIDE, |offset, length| self.read(name, offset, length)).await
    }

    async fn create(&self, name: &str, content: Content<'_>) -> Result<Put> {
        name::check(name)?;
        self.heeds_conditions.get_or_try_init(|| self.try_conditions()).await?;
        let (length, content) = (content.length()?, content.open()?);
        match usize::try_from(length) {
            Ok(whole) if length <= WHOLE_BYTES_MAX => {
                self.put_if_absent(name, &content.piece(0, whole)?).await
            }
            _ => self.copy_if_absent(name, length, &content).await,
        }
    }

    async fn replace(&self, name: &str, content: Bytes) -> Result<()> {
        name::check(name)?;
        let put = self.client.put(&self.key(name)?, PutPayload::from(content)).await;
        put.map(drop).map_err(|error| self.failed(name, &error))
    }

    async fn remove(&self, name: &str) -> Result<()> {
        name::check(name)?;
        match self.client.delete(&self.key(name)?).await {
            Ok(()) | Err(S3Error::NotFound { .. }) => Ok(()),
            Err(error) => Err(self.failed(name, &error)),
        }
    }
}

fn is_taken(error: &S3Error) -> bool {
    matches!(error, S3Error::AlreadyExists { .. } | S3Error::Precondition { .. })
}

/// The HTTP status of an answer. The client has it in its text alone.
fn status(error: &S3Error) -> Option<u16> {
    let text = causes(error).map(ToString::to_string).find(|text| text.contains("status code: "))?;
    let (_, rest) = text.split_once("status code: ")?;
    rest.get(..3)?.parse().ok()
}

fn is_about_http(error: &S3Error) -> bool {
    causes(error).any(<dyn std::error::Error>::is::<HttpError>)
}

fn causes(error: &S3Error) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let first: &(dyn std::error::Error + 'static) = error;
    std::iter::successors(Some(first), |cause| cause.source())
}

/// The client's errors repeat their causes, and have answers of many lines: only what each adds, on one.
fn reason(error: &S3Error) -> String {
    let one_line = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    let texts: Vec<String> = causes(error).map(|cause| one_line(cause.to_string())).collect();
    let repeats = |at: &usize| texts.get(at + 1).is_some_and(|next| texts[*at].contains(next.as_str()));
    let kept: Vec<&str> = (0..texts.len()).filter(|at| !repeats(at)).map(|at| texts[at].as_str()).collect();
    kept.join(": ")
}
