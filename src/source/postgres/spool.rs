//! Messages of one in-progress transaction that the server streams before its commit is known.
//!
//! They are kept as they came: first in memory, beyond a bound in an unlinked temporary file, which no crash can
//! leave behind (the server streams the transaction again). A rolled-back subtransaction takes back everything
//! since its first message: while it was open, only it and its own children could write.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use bytes::Bytes;

/// Messages in arrival order; offsets count from the first byte of the first message, file and memory together.
#[derive(Default)]
pub struct Spool {
    /// The tail, not yet in the file.
    memory: Vec<u8>,
    file: Option<File>,
    /// Bytes in the file: the offset at which `memory` begins.
    stored: u64,
    /// Where each subtransaction's first message begins, in arrival order.
    subtransactions: Vec<(u32, u64)>,
    /// The same by their ids: a loop with an exception block makes one a row.
    seen: HashSet<u32>,
}

impl Spool {
    /// Appends a message that belongs to (sub)transaction `xid`.
    pub fn append(&mut self, xid: u32, message: &[u8]) {
        if self.seen.insert(xid) {
            self.subtransactions.push((xid, self.size()));
        }
        let length = u32::try_from(message.len()).expect("a message is smaller than 1 GB");
        self.memory.extend_from_slice(&length.to_be_bytes());
        self.memory.extend_from_slice(message);
    }

    /// Bytes of messages held, on disk and in memory.
    pub fn size(&self) -> u64 {
        self.stored + self.memory.len() as u64
    }

    /// Bytes held in memory.
    pub fn memory(&self) -> usize {
        self.memory.len()
    }

    /// Takes back subtransaction `xid` and all after it; one that never wrote, or is already gone, changes nothing.
    pub fn roll_back(&mut self, xid: u32) -> io::Result<()> {
        if !self.seen.contains(&xid) {
            return Ok(());
        }
        let mut offset = self.size();
        // What is rolled back is most often the latest.
        while let Some((latest, begins)) = self.subtransactions.pop() {
            self.seen.remove(&latest);
            offset = begins;
            if latest == xid {
                break;
            }
        }
        if let Some(in_memory) = offset.checked_sub(self.stored) {
            self.memory.truncate(usize::try_from(in_memory).expect("within memory"));
            return Ok(());
        }
        self.memory.clear();
        self.stored = offset;
        match &mut self.file {
            Some(file) => {
                file.set_len(offset)?;
                file.seek(SeekFrom::End(0)).map(drop)
            }
            None => Ok(()),
        }
    }

    /// Moves what is in memory to the file, in `directory`.
    pub fn store(&mut self, directory: &Path) -> io::Result<()> {
        let file = match &mut self.file {
            Some(file) => file,
            none => none.insert(tempfile::tempfile_in(directory)?),
        };
        file.write_all(&self.memory)?;
        self.stored += self.memory.len() as u64;
        self.memory = Vec::new();
        Ok(())
    }

    /// The messages, in order, for applying.
    pub fn into_messages(mut self) -> io::Result<Messages> {
        if let Some(file) = &mut self.file {
            file.seek(SeekFrom::Start(0))?;
        }
        Ok(Messages {
            left: self.size(),
            file: self.file.map(BufReader::new),
            stored: self.stored,
            memory: self.memory.into(),
        })
    }
}

/// Reads a spool's messages back.
pub struct Messages {
    file: Option<BufReader<File>>,
    /// Bytes still to come from the file.
    stored: u64,
    memory: Bytes,
    left: u64,
}

impl Messages {
    /// Bytes not yet read.
    pub fn left(&self) -> u64 {
        self.left
    }

    pub fn read(&mut self) -> io::Result<Option<Bytes>> {
        if self.left == 0 {
            return Ok(None);
        }
        let length = self.take(4)?;
        let length = u32::from_be_bytes([length[0], length[1], length[2], length[3]]);
        self.take(length as usize).map(Some)
    }

    /// A message is stored whole, so its parts never straddle file and memory.
    fn take(&mut self, length: usize) -> io::Result<Bytes> {
        self.left -= length as u64;
        match &mut self.file {
            Some(file) if self.stored > 0 => {
                let mut bytes = vec![0; length];
                file.read_exact(&mut bytes)?;
                self.stored -= length as u64;
                Ok(bytes.into())
            }
            _ => Ok(self.memory.split_to(length)),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn contents(spool: Spool) -> Vec<Bytes> {
        let mut messages = spool.into_messages().unwrap();
        std::iter::from_fn(|| messages.read().unwrap()).collect()
    }

    #[test]
    fn a_rolled_back_subtransaction_takes_its_children_along() {
        let directory = tempfile::tempdir().unwrap();
        for stored_after in 0..6 {
            let mut spool = Spool::default();
            for (step, (xid, text)) in [(1, "a"), (2, "b"), (3, "c"), (2, "d")].into_iter().enumerate() {
                spool.append(xid, text.as_bytes());
                if step == stored_after {
                    spool.store(directory.path()).unwrap();
                }
            }
            spool.roll_back(2).unwrap();
            spool.roll_back(3).unwrap();
            spool.append(1, b"e");
            assert_eq!(contents(spool), ["a", "e"], "stored after message {stored_after}");
        }
    }

    proptest! {
        /// Against the obvious model: a list of messages, cut at the first of the rolled-back subtransaction.
        #[test]
        fn agrees_with_a_list(steps in prop::collection::vec((0..3u8, 1..5u32, prop::collection::vec(any::<u8>(), 0..20)), 0..60)) {
            let directory = tempfile::tempdir().unwrap();
            let mut spool = Spool::default();
            let mut model: Vec<(u32, Vec<u8>)> = Vec::new();
            let mut first: Vec<(u32, usize)> = Vec::new();
            for (step, xid, message) in steps {
                match step {
                    0 => {
                        if !first.iter().any(|&(seen, _)| seen == xid) {
                            first.push((xid, model.len()));
                        }
                        spool.append(xid, &message);
                        model.push((xid, message));
                    }
                    1 => {
                        spool.roll_back(xid).unwrap();
                        if let Some(index) = first.iter().position(|&(seen, _)| seen == xid) {
                            model.truncate(first[index].1);
                            first.truncate(index);
                        }
                    }
                    _ => spool.store(directory.path()).unwrap(),
                }
            }
            let expected: Vec<Vec<u8>> = model.into_iter().map(|(_, message)| message).collect();
            prop_assert_eq!(contents(spool), expected);
        }
    }
}
