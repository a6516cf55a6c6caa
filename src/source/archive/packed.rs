//! An archive's sealed files, wherever they lie: each by itself, or in a pack with its neighbours.
//!
//! `pgdiode archive compact` may move files into a pack at any moment: it makes the pack first and then removes the single
//! objects. So each look goes to the packs that are known, then to the single object, and where that is gone, to the
//! packs as they are by then: a file is never looked for where it has been only before, or will be only later.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;

use crate::archive::names;
use crate::archive::pack::{Pack, Span};
use crate::error::Result;
use crate::store::{AnyStore, Store, Stride, fetch_pieces};

/// No manifest is longer, a pack's included.
const OBJECT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Manifests of packs that are kept in memory: who goes through an archive needs one, who looks something up, a few.
const KEPT_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// How a file in a pack is fetched: most are small.
const STRIDE: Stride = Stride { length: 1024 * 1024, in_flight: 4 };

#[derive(Debug)]
pub struct Packed<S = AnyStore> {
    store: S,
    known: Mutex<Known>,
}

#[derive(Debug, Default)]
struct Known {
    /// As they were when they were listed last, by their first file.
    spans: Vec<Span>,
    /// The last one used is the last.
    kept: VecDeque<(Span, Arc<Pack>)>,
}

impl<S: Store> Packed<S> {
    pub fn over(store: S) -> Packed<S> {
        Packed { store, known: Mutex::default() }
    }

    /// The objects as they lie there.
    pub fn singly(&self) -> &S {
        &self.store
    }

    /// The numbers of the sealed files after `after`.
    pub async fn sealed(&self, after: u64) -> Result<Vec<u64>> {
        let manifests = self.store.list(names::MANIFESTS, Some(&names::manifest(after))).await?;
        let mut numbers: Vec<u64> =
            manifests.iter().filter_map(|object| names::parse_numbered(&object.name)).collect();
        // After the single ones: what is not there any more is in a pack by now.
        let packed = self.look_again().await?.into_iter().flat_map(Span::numbers);
        numbers.extend(packed.filter(|number| *number > after));
        numbers.sort_unstable();
        numbers.dedup();
        Ok(numbers)
    }

    /// The manifest of a file; `None`: it is not sealed, or has been pruned.
    pub async fn manifest(&self, number: u64) -> Result<Option<Bytes>> {
        if let Some(manifest) = self.manifest_where_known(number).await? {
            return Ok(Some(manifest));
        }
        self.look_again().await?;
        Ok(self.find(number).await?.map(manifest_of))
    }

    /// The same, without a look for new packs: for who waits for the next file, which is made by itself.
    pub async fn manifest_where_known(&self, number: u64) -> Result<Option<Bytes>> {
        if let Some(found) = self.find(number).await? {
            return Ok(Some(manifest_of(found)));
        }
        self.store.read_all(&names::manifest(number), OBJECT_BYTES_MAX).await
    }

    /// The size of a change file, as it is stored.
    pub async fn size(&self, name: &str) -> Result<Option<u64>> {
        if let Some((pack, at)) = self.find_named(name).await? {
            return Ok(Some(pack.files[at].length));
        }
        if let Some(size) = self.store.size(name).await? {
            return Ok(Some(size));
        }
        self.look_again().await?;
        Ok(self.find_named(name).await?.map(|(pack, at)| pack.files[at].length))
    }

    /// Up to `length` bytes of a change file from `offset`, fewer only at its end.
    pub async fn read(&self, name: &str, offset: u64, length: usize) -> Result<Bytes> {
        if let Some(bytes) = self.read_packed(name, offset, length).await? {
            return Ok(bytes);
        }
        if let Some(bytes) = self.store.read_if_any(name, offset, length).await? {
            return Ok(bytes);
        }
        self.look_again().await?;
        match self.read_packed(name, offset, length).await? {
            Some(bytes) => Ok(bytes),
            None => self.store.read(name, offset, length).await,
        }
    }

    async fn read_packed(&self, name: &str, offset: u64, length: usize) -> Result<Option<Bytes>> {
        let Some((number, _)) = names::parse_change_file(name) else { return Ok(None) };
        for span in self.holding(number) {
            let Some(pack) = self.pack(span).await? else { continue };
            let Some(file) = pack.file(number).filter(|file| file.name == name) else { continue };
            let left = file.length.saturating_sub(offset);
            let length = usize::try_from(left).map_or(length, |left| left.min(length));
            if length == 0 {
                return Ok(Some(Bytes::new()));
            }
            // `None`: the pack has been pruned.
            let read = self.store.read_if_any(&pack.name, file.offset + offset, length).await?;
            if read.is_some() {
                return Ok(read);
            }
        }
        Ok(None)
    }

    /// Copies a change file to a local one, which is there only when it is whole.
    pub async fn fetch(&self, name: &str, to: &Path) -> Result<()> {
        if self.find_named(name).await?.is_none() {
            match self.store.fetch(name, to).await {
                // Into a pack, meanwhile.
                Err(_) if self.store.size(name).await?.is_none() => {}
                fetched => return fetched,
            }
        }
        let Some(size) = self.size(name).await? else {
            return self.store.read(name, 0, 0).await.map(drop);
        };
        let object = format!("{}/{name}", self.store.display());
        fetch_pieces(&object, size, to, STRIDE, |offset, length| self.read(name, offset, length)).await
    }

    /// Which packs there are now.
    async fn look_again(&self) -> Result<Vec<Span>> {
        let manifests = self.store.list(names::PACK_MANIFESTS, None).await?;
        let mut spans: Vec<Span> =
            manifests.iter().filter_map(|object| names::parse_pack(&object.name)).collect();
        spans.sort_unstable();
        let mut known = self.lock();
        known.kept.retain(|(span, _)| spans.binary_search(span).is_ok());
        known.spans.clone_from(&spans);
        Ok(spans)
    }

    async fn find_named(&self, name: &str) -> Result<Option<(Arc<Pack>, usize)>> {
        let Some((number, _)) = names::parse_change_file(name) else { return Ok(None) };
        let found = self.find(number).await?;
        // Another of the same number was never sealed.
        Ok(found.filter(|(pack, at)| pack.files[*at].name == name))
    }

    /// The pack that a file is in, as far as packs are known, and its place there.
    async fn find(&self, number: u64) -> Result<Option<(Arc<Pack>, usize)>> {
        for span in self.holding(number) {
            if let Some(pack) = self.pack(span).await? {
                // Its manifest was checked: it has all files of its span.
                let at = usize::try_from(number - span.first).unwrap_or(usize::MAX);
                return Ok(Some((pack, at)));
            }
        }
        Ok(None)
    }

    /// The packs that hold a file: as a rule one.
    fn holding(&self, number: u64) -> Vec<Span> {
        let known = self.lock();
        let until = known.spans.partition_point(|span| span.first <= number);
        known.spans[..until].iter().rev().filter(|span| span.last >= number).copied().collect()
    }

    /// `None`: it has gone since it was listed.
    async fn pack(&self, span: Span) -> Result<Option<Arc<Pack>>> {
        if let Some(pack) = self.lock().used(span) {
            return Ok(Some(pack));
        }
        let name = names::pack_manifest(span);
        let Some(bytes) = self.store.read_all(&name, OBJECT_BYTES_MAX).await? else { return Ok(None) };
        let pack = Arc::new(Pack::parse(span, &bytes)?);
        self.lock().keep(span, Arc::clone(&pack));
        Ok(Some(pack))
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().expect("nobody panics while looking up a pack")
    }
}

impl Known {
    fn used(&mut self, span: Span) -> Option<Arc<Pack>> {
        let at = self.kept.iter().position(|(kept, _)| *kept == span)?;
        let (span, pack) = self.kept.remove(at)?;
        self.kept.push_back((span, Arc::clone(&pack)));
        Some(pack)
    }

    fn keep(&mut self, span: Span, pack: Arc<Pack>) {
        self.kept.retain(|(kept, _)| *kept != span);
        self.kept.push_back((span, pack));
        let bytes = |kept: &VecDeque<(Span, Arc<Pack>)>| {
            kept.iter().flat_map(|(_, pack)| &pack.files).map(|file| file.manifest.len() as u64).sum::<u64>()
        };
        while self.kept.len() > 1 && bytes(&self.kept) > KEPT_BYTES_MAX {
            self.kept.pop_front();
        }
    }
}

fn manifest_of((pack, at): (Arc<Pack>, usize)) -> Bytes {
    Bytes::copy_from_slice(pack.files[at].manifest.as_bytes())
}
