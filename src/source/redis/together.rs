//! Keys that were written in one transaction of the source, and are to be seen together: cut apart by no batch.
//!
//! Two transactions that have a key in common make one group, since a key is applied once, as the last of them left it.

/// Groups of keys, each key with the number of one that it once joined.
#[derive(Debug, Default)]
pub struct Groups {
    /// By number, the group that it became a part of; itself where it did not.
    parents: Vec<u32>,
    open: Open,
}

/// Whether a transaction is being entered; with its group, once a key has one.
#[derive(Debug, Default, Clone, Copy)]
enum Open {
    #[default]
    Nothing,
    Ungrouped,
    Grouped(u32),
}

impl Groups {
    /// Keys that join from now on belong together.
    pub fn begin(&mut self) {
        self.open = Open::Ungrouped;
    }

    pub fn end(&mut self) {
        self.open = Open::Nothing;
    }

    /// The key whose `group` this is was written.
    pub fn join(&mut self, group: &mut Option<u32>) {
        let joined = match (self.open, *group) {
            (Open::Nothing, _) => return,
            (Open::Ungrouped, None) => self.found(),
            (Open::Ungrouped, Some(own)) => own,
            (Open::Grouped(open), None) => open,
            (Open::Grouped(open), Some(own)) => self.unite(open, own),
        };
        *group = Some(joined);
        self.open = Open::Grouped(joined);
    }

    fn found(&mut self) -> u32 {
        let number = u32::try_from(self.parents.len()).unwrap_or(u32::MAX - 1);
        self.parents.push(number);
        number
    }

    fn unite(&mut self, one: u32, other: u32) -> u32 {
        let (one, other) = (self.root(one), self.root(other));
        self.parents[other as usize] = one;
        one
    }

    /// What the group is a part of by now.
    pub fn root(&mut self, mut number: u32) -> u32 {
        while self.parents[number as usize] != number {
            let above = self.parents[self.parents[number as usize] as usize];
            self.parents[number as usize] = above;
            number = above;
        }
        number
    }

    pub fn clear(&mut self) {
        self.parents.clear();
    }
}

/// How many of `items`, of which those of one group stand together, are a batch: `most` at most, unless a single group is
/// larger. One that is larger than `limit` is cut like anything.
pub fn cut<T>(items: &[T], most: usize, limit: usize, group: impl Fn(&T) -> Option<u32>) -> usize {
    if items.len() <= most {
        return items.len();
    }
    let is_whole = |end: &usize| group(&items[end - 1]).is_none_or(|one| group(&items[*end]) != Some(one));
    let before = (1..=most).rev().find(is_whole);
    let behind = || {
        let end = (most + 1..items.len()).take_while(|end| *end <= limit).find(is_whole);
        end.or_else(|| (items.len() <= limit).then_some(items.len()))
    };
    before.or_else(behind).unwrap_or(most)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_ends_between_groups() {
        let group = |item: &u32| (*item > 0).then_some(*item);
        let cut = |items: &[u32], most| cut(items, most, 6, group);
        assert_eq!(cut(&[0, 0, 0], 2), 2, "without groups it is full");
        assert_eq!(cut(&[0, 1, 1, 2], 2), 1, "before a group that does not fit");
        assert_eq!(cut(&[1, 1, 2, 2], 3), 2);
        assert_eq!(cut(&[1, 1, 1, 2], 2), 3, "behind a group that is larger");
        assert_eq!(cut(&[1, 1, 1], 2), 3);
        assert_eq!(cut(&[1; 9], 2), 2, "where it would be too large, anywhere");
        assert_eq!(cut(&[1, 1], 2), 2);
        assert_eq!(cut(&[], 2), 0);
    }

    #[test]
    fn transactions_with_a_key_in_common_are_one_group() {
        let mut groups = Groups::default();
        let mut keys = [None; 5];
        for transaction in [&[0, 1][..], &[2, 3], &[1, 2]] {
            groups.begin();
            for key in transaction {
                groups.join(&mut keys[*key]);
            }
            groups.end();
        }
        groups.join(&mut keys[4]);
        let roots: Vec<_> = keys.iter().map(|group| group.map(|group| groups.root(group))).collect();
        assert!(roots[..4].iter().all(|root| root.is_some() && *root == roots[0]), "{roots:?}");
        assert_eq!(roots[4], None, "written alone");
    }
}
