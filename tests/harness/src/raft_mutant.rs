//! Which rule every core of this thread's worlds breaks, for the proof that the tests notice.

use raft_core::Config;
use raft_core::mutant::Mutant;
use raft_core::node_pair::PairsConfig;
use std::cell::Cell;

thread_local! {
    static BROKEN: Cell<Option<Mutant>> = const { Cell::new(None) };
}

/// Runs something while every new world on this thread breaks that rule.
pub fn breaking<T>(rule: Mutant, run: impl FnOnce() -> T) -> T {
    BROKEN.set(Some(rule));
    let result = run();
    BROKEN.set(None);
    result
}

/// The settings with the rule of this thread broken.
pub(crate) fn applied(mut configs: Vec<Config>) -> Vec<Config> {
    configs.iter_mut().for_each(|config| config.mutant = BROKEN.get());
    configs
}

/// The same for the pairs of a node.
pub(crate) fn applied_to_pairs(config: PairsConfig) -> PairsConfig {
    PairsConfig { mutant: BROKEN.get(), ..config }
}
