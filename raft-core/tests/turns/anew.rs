//! What begins anew, and what must not begin beside what is under way: snapshots that come in, campaigns, and
//! what a host has lost.

use super::*;

fn offer_of(r: &mut Raft, from: u64, term: u64, snapshot: &Snapshot) {
    let (term, snapshot) = (Term(term), Box::new(snapshot.clone()));
    let m = InstallSnapshot { term, stamp: 5, lease_ns: 0, snapshot };
    r.step(5, NodeId(from), Message::InstallSnapshot(m)).unwrap();
}

/// R26: one snapshot is installed at a time. What another leader offers meanwhile is not taken up: its first bytes
/// would take the place of what waits on this disk to be installed.
#[test]
fn no_other_snapshot_is_taken_up_while_one_is_installed() {
    let mut r = open(0);
    let (first, second) = (snap(id(8, 1)), snap(id(20, 2)));
    offer_of(&mut r, 2, 1, &first);
    poll(&mut r, 5);
    r.snapshot(5, SnapEvent::Received { id: first.id, offset: 100 });
    let mut e = Effects::default();
    r.poll(5, &mut e);
    let install = e.write.take().expect("the first one");
    assert_eq!(install.install.as_deref(), Some(&first));
    // n3 leads now, and its log begins behind the second one.
    offer_of(&mut r, 3, 2, &second);
    r.poll(5, &mut e);
    assert_eq!(r.incoming(), None, "taken up before the other is installed");
    r.snapshot(5, SnapEvent::Received { id: second.id, offset: 100 });
    r.poll(5, &mut e);
    let writes = e.write.take();
    assert!(writes.is_none_or(|write| write.install.is_none()), "two installs at once");
    r.persisted(6, install.token);
    r.snapshot(6, SnapEvent::Installed { id: first.id });
    r.poll(6, &mut e);
    // Then it is.
    offer_of(&mut r, 3, 2, &second);
    assert_eq!(r.incoming(), Some((second.id, 0)));
}
