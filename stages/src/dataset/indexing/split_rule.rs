//! Divides samples into training, validation and test: by shares, from a seed, each label in proportion, and so that no
//! picture, text or group is in two splits. It knows labels and digests, not where they come from.

use std::collections::{BTreeSet, HashMap};

use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::artifacts::labels::Label;
use crate::artifacts::samples::Split;

/// The rule.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SplitRule {
    /// The share of validation, from 0 to 1; what no split takes is for training.
    pub val: f64,
    /// The share of the test split.
    pub test: f64,
    /// Decides which samples these are.
    pub seed: u64,
    /// Whether samples of one picture may be in several splits.
    pub share_pictures: bool,
    /// Whether samples of one text may, as where few questions are asked of many pictures.
    pub share_texts: bool,
}

impl Default for SplitRule {
    fn default() -> Self {
        Self { val: 0.0, test: 0.0, seed: 1, share_pictures: false, share_texts: false }
    }
}

/// What counts of a sample.
pub struct Item<'a> {
    /// Its label.
    pub label: Option<Label>,
    /// Its group, where the source names one.
    pub group: Option<&'a str>,
    /// The digest of its text, unless that is empty.
    pub text: Option<u128>,
    /// The digest of its picture.
    pub picture: u128,
}

impl SplitRule {
    /// Whether the shares make sense.
    ///
    /// # Errors
    /// A sentence.
    pub fn check(&self) -> Result<(), String> {
        let Self { val, test, .. } = *self;
        let is_share = |share: f64| (0.0..1.0).contains(&share);
        if is_share(val) && is_share(test) && (0.0..1.0).contains(&(val + test)) && val + test > 0.0 {
            return Ok(());
        }
        Err(format!(
            "`split` gives {val} to `val` and {test} to `test`; these are shares, from 0 to 1, that leave something for training"
        ))
    }

    /// Whether it makes this split.
    pub fn makes(&self, split: Split) -> bool {
        self.share(split) > 0.0
    }

    /// The rule in words.
    pub fn in_words(&self) -> String {
        let apart = [(!self.share_pictures, "picture"), (!self.share_texts, "text"), (true, "group")];
        let apart: Vec<&str> = apart.into_iter().filter(|(is, _)| *is).map(|(_, what)| what).collect();
        format!(
            "by shares, {} val and {} test, stratified, seed {}; no {} in two splits",
            self.val,
            self.test,
            self.seed,
            apart.join(" and no ")
        )
    }

    fn share(&self, split: Split) -> f64 {
        match split {
            Split::Train => 1.0 - self.val - self.test,
            Split::Val => self.val,
            Split::Test => self.test,
        }
    }

    /// The split of each item. What must stay together is placed as one, the largest first and equals in an order from the seed:
    /// where the labels that it brings are missing most, or else most rows. The last ones go to splits that have nothing yet.
    pub fn divide(&self, items: &[Item]) -> Vec<Split> {
        const SPLITS: [Split; 3] = [Split::Train, Split::Val, Split::Test];
        // Labels in order, rows without one first.
        let labels: BTreeSet<Option<Label>> = items.iter().map(|item| item.label).collect();
        let labels: Vec<Option<Label>> = labels.into_iter().collect();
        let class = |item: &Item| labels.partition_point(|label| *label < item.label);
        let classes = labels.len();
        let mut missing = SPLITS.map(|split| {
            let mut missing = vec![0.0; classes];
            items.iter().for_each(|item| missing[class(item)] += self.share(split));
            missing
        });
        let mut together = self.together(items);
        together.shuffle(&mut ChaCha8Rng::seed_from_u64(self.seed));
        together.sort_by_key(|rows| std::cmp::Reverse(rows.len()));
        let mut splits = vec![Split::Train; items.len()];
        let (mut left, mut filled) = (together.len(), [0; SPLITS.len()]);
        for rows in together {
            // Shares are no binary fractions: what differs by less than a millionth of a row is equal.
            let rounded = |value: f64| (value * 1e6).round() as i64;
            let need = |at: &usize| {
                let of_labels = rows.iter().map(|&row| missing[*at][class(&items[row])]).sum::<f64>();
                (rounded(of_labels), rounded(missing[*at].iter().sum()))
            };
            let places = || (0..SPLITS.len()).filter(|&at| self.makes(SPLITS[at]));
            let is_needed = places().filter(|&at| filled[at] == 0).count() >= left;
            // The first of equals, which is training.
            let best = places()
                .filter(|&at| !is_needed || filled[at] == 0)
                .rev()
                .max_by_key(need)
                .unwrap_or_default();
            left -= 1;
            filled[best] += rows.len();
            for row in rows {
                missing[best][class(&items[row])] -= 1.0;
                splits[row] = SPLITS[best];
            }
        }
        splits
    }

    /// The rows that share something with each other, directly or through others.
    fn together(&self, items: &[Item]) -> Vec<Vec<usize>> {
        let mut parents: Vec<usize> = (0..items.len()).collect();
        fn root(parents: &mut [usize], mut row: usize) -> usize {
            while parents[row] != row {
                parents[row] = parents[parents[row]];
                row = parents[row];
            }
            row
        }
        #[derive(PartialEq, Eq, Hash)]
        enum Shared<'a> {
            Group(&'a str),
            Text(u128),
            Picture(u128),
        }
        let mut first = HashMap::new();
        for (row, item) in items.iter().enumerate() {
            let text = item.text.filter(|_| !self.share_texts).map(Shared::Text);
            let picture = (!self.share_pictures).then_some(Shared::Picture(item.picture));
            for shared in [item.group.map(Shared::Group), text, picture].into_iter().flatten() {
                let other = *first.entry(shared).or_insert(row);
                let (a, b) = (root(&mut parents, other), root(&mut parents, row));
                // The first row of all stands for them.
                parents[a.max(b)] = a.min(b);
            }
        }
        let mut sets: Vec<Vec<usize>> = vec![Vec::new(); items.len()];
        (0..items.len()).for_each(|row| sets[root(&mut parents, row)].push(row));
        sets.retain(|rows| !rows.is_empty());
        sets
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn plain(row: usize, label: u8) -> Item<'static> {
        Item { label: Some(label.into()), group: None, text: Some(row as u128), picture: 1000 + row as u128 }
    }

    fn counts(splits: &[Split], items: &[Item]) -> BTreeMap<(Split, Option<Label>), usize> {
        splits.iter().zip(items).fold(BTreeMap::new(), |mut counts, (split, item)| {
            *counts.entry((*split, item.label)).or_default() += 1;
            counts
        })
    }

    #[test]
    fn each_label_is_divided_by_the_shares() {
        let items: Vec<Item> = (0..200).map(|row| plain(row, u8::from(row % 4 == 0))).collect();
        let rule = SplitRule { val: 0.2, test: 0.1, ..SplitRule::default() };
        let splits = rule.divide(&items);
        let found: Vec<usize> = counts(&splits, &items).into_values().collect();
        // Training, validation, test; of each 150 and 50 rows with label 0 and 1.
        assert_eq!(found, [105, 35, 30, 10, 15, 5]);
        assert_eq!(rule.divide(&items), splits);
        let other = SplitRule { seed: 2, ..rule }.divide(&items);
        assert_ne!(other, splits);
        assert_eq!(counts(&other, &items), counts(&splits, &items));
    }

    #[test]
    fn what_rows_share_keeps_them_together_through_others_too() {
        // 0 and 1 share a text, 1 and 2 a picture, 2 and 3 a group.
        let mut items: Vec<Item> = (0..40).map(|row| plain(row, (row % 2) as u8)).collect();
        items[1].text = items[0].text;
        items[2].picture = items[1].picture;
        (items[2].group, items[3].group) = (Some("a"), Some("a"));
        for seed in 0..20 {
            let splits = SplitRule { val: 0.3, test: 0.3, seed, ..SplitRule::default() }.divide(&items);
            assert!(splits[..4].iter().all(|split| *split == splits[0]), "{seed}: {:?}", &splits[..4]);
        }
        let loose = SplitRule { val: 0.4, share_texts: true, share_pictures: true, ..SplitRule::default() };
        assert_eq!(loose.together(&items).len(), 39);
        // Empty texts are nothing in common.
        items.iter_mut().for_each(|item| item.text = None);
        assert_eq!(SplitRule::default().together(&items).len(), 38);
    }

    #[test]
    fn no_split_stays_empty_where_there_is_enough_to_place() {
        // Three groups of ten, and shares of a fifth.
        let group =
            |row: usize| Item { group: Some(["a", "b", "c"][row / 10]), ..plain(row, (row % 2) as u8) };
        let items: Vec<Item> = (0..30).map(group).collect();
        let rule = SplitRule { val: 0.2, test: 0.2, ..SplitRule::default() };
        let sizes: Vec<usize> = counts(&rule.divide(&items), &items).into_values().collect();
        assert_eq!(sizes, [5; 6]);
        // Where halves cannot be divided evenly, the rows of both splits are as many.
        let items: Vec<Item> = (0..20).map(|row| plain(row, (row % 2) as u8)).collect();
        let splits = SplitRule { val: 0.25, test: 0.25, ..SplitRule::default() }.divide(&items);
        assert_eq!(
            [Split::Val, Split::Test].map(|split| splits.iter().filter(|at| **at == split).count()),
            [5, 5]
        );
    }

    #[test]
    fn shares_that_leave_nothing_are_refused() {
        let check = |val, test| SplitRule { val, test, ..SplitRule::default() }.check();
        assert!(check(0.1, 0.0).is_ok() && check(0.0, 0.2).is_ok());
        for (val, test) in [(0.0, 0.0), (0.5, 0.5), (-0.1, 0.2), (1.0, 0.0), (f64::NAN, 0.1)] {
            assert!(check(val, test).unwrap_err().contains("leave something for training"), "{val} {test}");
        }
    }

    proptest! {
        #[test]
        fn nothing_shared_is_ever_in_two_splits(
            rows in prop::collection::vec((0u8..3, 0u128..30, 0u128..30, prop::option::of(0usize..5)), 0..120),
            seed in 0u64..9,
        ) {
            const GROUPS: [&str; 5] = ["a", "b", "c", "d", "e"];
            let items: Vec<Item> = rows
                .iter()
                .map(|&(label, text, picture, group)| Item {
                    label: (label < 2).then_some(Label::One(label)),
                    group: group.map(|group| GROUPS[group]),
                    text: Some(text),
                    picture,
                })
                .collect();
            let splits = SplitRule { val: 0.2, test: 0.2, seed, ..SplitRule::default() }.divide(&items);
            for (a, left) in items.iter().enumerate() {
                for (b, right) in items.iter().enumerate().take(a) {
                    let shares = left.text == right.text
                        || left.picture == right.picture
                        || (left.group.is_some() && left.group == right.group);
                    prop_assert!(!shares || splits[a] == splits[b]);
                }
            }
        }
    }
}
