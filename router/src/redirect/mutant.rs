//! Rules of the cluster port that can be broken on purpose, to prove that the tests would notice. What is shipped is
//! built without the feature `mutants`, and breaks none.

/// A broken rule. Its comment says what is done instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A leader sends clients to itself.
    SendToItself,
    /// Clients are sent to a node that is down or gone.
    SendToLost,
    /// Clients are sent to a node with which there is no link.
    SendOverCut,
    /// Clients are sent to a node that has no such port.
    SendToClosed,
    /// Clients are sent to the port of the node that sends nobody away.
    SendToPlainPort,
    /// A slot that moves is sent to its leader.
    SendMoving,
    /// Slots that move are those of the first map that was asked for.
    MovesOfTheFirstMap,
    /// What was sent behind a command that was sent away is served.
    ServeBehind,
    /// Behind a command that was sent away another one is served whose token CLIENT IDMP brought.
    ServeMarkedBehind,
    /// What is for other slots is sent away behind one as well.
    AnySlotBehind,
    /// What was sent away is repeated to a client who has read it.
    NeverForgotten,
    /// A command on whole groups is about all of them.
    AllGroups,
    /// A node that leads nothing refuses a write as a cluster without groups does.
    NothingIsDown,
}

impl Mutant {
    /// Every one.
    pub const ALL: [Mutant; 13] = [
        Mutant::SendToItself,
        Mutant::SendToLost,
        Mutant::SendOverCut,
        Mutant::SendToClosed,
        Mutant::SendToPlainPort,
        Mutant::SendMoving,
        Mutant::MovesOfTheFirstMap,
        Mutant::ServeBehind,
        Mutant::ServeMarkedBehind,
        Mutant::AnySlotBehind,
        Mutant::NeverForgotten,
        Mutant::AllGroups,
        Mutant::NothingIsDown,
    ];
}

#[cfg(feature = "mutants")]
thread_local! {
    static BROKEN: std::cell::Cell<Option<Mutant>> = const { std::cell::Cell::new(None) };
}

/// Breaks a rule in the front ends of this thread.
#[cfg(feature = "mutants")]
pub fn set(mutant: Option<Mutant>) {
    BROKEN.set(mutant);
}

/// Whether a rule is broken.
#[inline]
pub(super) fn is_broken(mutant: Mutant) -> bool {
    #[cfg(feature = "mutants")]
    {
        BROKEN.get() == Some(mutant)
    }
    #[cfg(not(feature = "mutants"))]
    {
        let _ = mutant;
        false
    }
}
