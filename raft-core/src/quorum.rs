//! Pure arithmetic over a set of voters: is a vote won or lost, what does a majority hold.

/// The most voters a group may have. Seven survive three failures; more only cost latency.
pub const VOTERS_MAX: usize = 7;

/// How a vote stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VoteResult {
    /// Neither side has a majority.
    Pending,
    /// A majority granted.
    Won,
    /// So many refused that no majority can grant any more.
    Lost,
}

/// The size of a majority. Half is not one: two of four may face another two (E30).
pub(crate) fn majority(voters: usize) -> usize {
    voters / 2 + 1
}

/// How a vote among `voters` stands after so many granted and refused.
pub(crate) fn vote_result(voters: usize, granted: usize, refused: usize) -> VoteResult {
    if granted >= majority(voters) {
        VoteResult::Won
    } else if voters - refused < majority(voters) {
        VoteResult::Lost
    } else {
        VoteResult::Pending
    }
}

/// The highest value that a majority has reached, given one value per voter. Sorts `values`.
///
/// For match indexes this is what Raft 5.3 may commit; for contact times, when a majority was last
/// heard.
pub(crate) fn reached_by_majority<T: Ord + Copy>(values: &mut [T]) -> T {
    values.sort_unstable();
    values[values.len() - majority(values.len())]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_is_not_a_majority() {
        let sizes = [(1, 1), (2, 2), (3, 2), (4, 3), (5, 3), (6, 4), (7, 4)];
        for (voters, size) in sizes {
            assert_eq!(majority(voters), size, "{voters} voters");
        }
    }

    #[test]
    fn votes() {
        use VoteResult::{Lost, Pending, Won};
        let table = [
            // voters, granted, refused
            (1, 0, 0, Pending),
            (1, 1, 0, Won),
            (2, 1, 0, Pending),
            (2, 1, 1, Lost),
            (2, 2, 0, Won),
            (3, 1, 1, Pending),
            (3, 1, 2, Lost),
            (3, 2, 0, Won),
            (4, 2, 1, Pending),
            (4, 2, 2, Lost),
            (5, 2, 2, Pending),
            (5, 3, 2, Won),
            (5, 2, 3, Lost),
        ];
        for (voters, granted, refused, expected) in table {
            assert_eq!(
                vote_result(voters, granted, refused),
                expected,
                "{granted} granted and {refused} refused of {voters}"
            );
        }
    }

    #[test]
    fn the_majority_index_agrees_with_counting() {
        // Every assignment of 0..=3 to up to five voters, against the definition.
        for voters in 1..=5usize {
            for code in 0..4usize.pow(voters as u32) {
                let values: Vec<usize> =
                    (0..voters).map(|v| code / 4usize.pow(v as u32) % 4).collect();
                let by_definition = (0..=3)
                    .rev()
                    .find(|x| values.iter().filter(|v| *v >= x).count() >= majority(voters));
                let found = reached_by_majority(&mut values.clone());
                assert_eq!(Some(found), by_definition, "{values:?}");
            }
        }
    }
}
