//! What stands in the file is not what was written.

use super::*;
use redb::TableHandle;

/// Changes the file behind the store's back, with checksums that redb finds sound.
fn tamper(path: &Path, change: impl FnOnce(&redb::WriteTransaction)) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    change(&transaction);
    transaction.commit().unwrap();
}

fn flip_bit(
    transaction: &redb::WriteTransaction,
    table: redb::TableDefinition<&[u8], &[u8]>,
    at: usize,
) {
    let mut table = transaction.open_table(table).unwrap();
    let (key, mut value) = {
        let (key, value) = table.first().unwrap().unwrap();
        (key.value().to_vec(), value.value().to_vec())
    };
    let at = at % value.len();
    value[at] ^= 16;
    table.insert(&key[..], &value[..]).unwrap();
}

#[test]
fn a_row_that_is_not_what_was_written_is_never_used() {
    for (table, at) in [(ROWS, 0), (ROWS, 8), (ROWS, 9), (ROWS, 14), (PARTS, 0), (PARTS, 5000)] {
        for long in [true, false] {
            if table.name() == "parts" && !long {
                continue;
            }
            let folder = Folder::new();
            let path = folder.file("state.redb");
            let store = open(&path);
            let size = if long { 50_000 } else { 10 };
            let id = store.checkpoint(G1, 1, vec![put(b"key", &pattern(size, 3))]).id;
            store.close();
            tamper(&path, |transaction| flip_bit(transaction, table, at));

            let store = open(&path);
            let error = store.store.checkpoints().load(G1, |_, _| Ok::<(), ()>(())).unwrap_err();
            let LoadError::Store(StateStoreError::Damaged { place, .. }) = error else {
                panic!("{error:?}")
            };
            assert!(place.contains("group 1, generation 0"), "{place}");
            store.send(G1, P1, id, 0, 29);
            let StateStoreEvent::Failed(sentence) = store.next() else { panic!("not found") };
            assert!(sentence.contains("damaged at") && sentence.contains("state.redb"));
            assert_eq!(store.store.close(), Err(sentence));
            if table.name() == "rows" {
                let store = open(&copied(&path));
                store.store.changes(G1, vec![put(b"key", b"new")]);
                assert!(matches!(store.next(), StateStoreEvent::Failed(_)));
                store.store.commit(G1, mark(2));
                assert!(store.store.close().is_err());
                assert_eq!(store.events.try_iter().count(), 0);
            }
        }
    }
}

#[test]
fn a_row_or_a_part_that_is_missing_is_noticed() {
    for table in [ROWS, PARTS] {
        let folder = Folder::new();
        let path = folder.file("state.redb");
        let store = open(&path);
        let id = store.checkpoint(G1, 1, vec![put(b"a", b"b"), put(b"k", &pattern(50_000, 3))]).id;
        store.close();
        tamper(&path, |transaction| {
            transaction.open_table(table).unwrap().pop_first().unwrap().unwrap();
        });
        let store = open(&path);
        let error = store.store.checkpoints().load(G1, |_, _| Ok::<(), ()>(())).unwrap_err();
        assert!(matches!(error, LoadError::Store(StateStoreError::Damaged { .. })), "{error:?}");
        store.send(G1, P1, id, 0, store.groups[&G1].checkpoint.as_ref().unwrap().bytes);
        assert!(matches!(store.next(), StateStoreEvent::Failed(_)));
    }
}

#[test]
fn what_cannot_be_used_is_refused_in_a_sentence() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let must_exist = StateStoreConfig { must_exist: true, ..StateStoreConfig::default() };
    let error = try_open(&path, must_exist).err().unwrap();
    assert!(matches!(error, StateStoreError::Missing(_)));
    std::fs::write(&path, b"").unwrap();
    let error = try_open(&path, must_exist).err().unwrap();
    assert!(error.to_string().contains("missing or empty"));
    let store = open(&path);
    store.checkpoint(G1, 1, vec![put(b"a", b"b")]);
    store.close();
    for table in [GROUPS, format::STAGING, format::INSTALLING] {
        tamper(&path, |transaction| {
            transaction.open_table(table).unwrap().insert(8, &b"\x01nonsense"[..]).unwrap();
        });
        let error = try_open(&path, must_exist).err().unwrap().to_string();
        assert!(error.contains("group 8 of table") && error.contains("state.redb"), "{error}");
        tamper(&path, |transaction| {
            transaction.open_table(table).unwrap().remove(8).unwrap();
        });
    }
    tamper(&path, |transaction| {
        transaction.open_table(format::META).unwrap().insert("format", 3).unwrap();
    });
    let error = try_open(&path, must_exist).err().unwrap().to_string();
    assert!(error.contains("has format 3; this program reads up to 2"), "{error}");
    for bytes in [100_000, 100] {
        std::fs::write(&path, pattern(bytes, 1)).unwrap();
        let error = try_open(&path, must_exist).err().unwrap();
        assert!(matches!(error, StateStoreError::Rotten { .. }), "{error}");
        assert!(error.to_string().ends_with(HOW_TO_GO_ON), "{error}");
    }
}

/// A file from before files said whose they are is the first one's who opens it.
#[test]
fn another_nodes_state_is_refused_with_both_ids() {
    let folder = Folder::new();
    let path = folder.file("state.redb");
    let store = open(&path);
    store.checkpoint(G1, 1, vec![put(b"a", b"b")]);
    store.close();
    let open_as = |owner: &Identity| {
        let config = StateStoreConfig::default();
        StateStore::open((&path, owner), &OpenStorage::default(), config, |_| {})
    };
    let Err(error) = open_as(&owner(2)) else { panic!("it is another's") };
    let said = error.to_string();
    let begins = format!("the state {} belongs to node 1 of cluster \"c\", its", path.display());
    assert!(said.starts_with(&begins) && said.contains("to node 2 of cluster \"c\""), "{said}");
    let store = open(&path);
    assert_eq!(store.rows(G1).len(), 1, "nothing of it was changed");
    store.close();
    // As an older program has left it.
    tamper(&path, |transaction| {
        let owners = redb::TableDefinition::<&str, u64>::new("owner");
        assert!(transaction.delete_table(owners).unwrap());
        transaction.open_table(format::META).unwrap().insert("format", 1).unwrap();
    });
    let (store, groups) = open_as(&owner(2)).unwrap();
    assert!(groups[&G1].checkpoint.is_some());
    store.close().unwrap();
    let refused = try_open(&path, StateStoreConfig::default());
    assert!(matches!(refused, Err(StateStoreError::OtherOwner(_))));
    tamper(&path, |transaction| {
        let format = transaction.open_table(format::META).unwrap();
        let format = format.get("format").unwrap().unwrap().value();
        assert_eq!(format, 2, "an older program does not start on it");
    });
}
