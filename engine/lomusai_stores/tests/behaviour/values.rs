//! Values by key, and content by hash.

use lomusai_core::journal::content_hash;
use lomusai_core::storage::Batch;
use lomusai_core::testing::block_on;
use lomusai_wire::{SqlStatement, codes};
use serde_json::{Value, json};

use crate::Case;
use crate::kit::{commit, refuse, values};

crate::for_each_store![
    a_value_is_set_changed_and_removed,
    changes_of_one_batch_happen_in_order,
    values_read_back_as_they_were_written,
    spaces_keep_their_keys_apart,
    keys_list_by_prefix_in_order,
    content_is_kept_by_its_hash,
    a_batch_is_written_only_where_values_are_as_expected,
    a_step_s_own_statements_are_written_with_the_batch_or_refused,
];

fn get(case: &Case, space: &str, key: &str) -> Option<Value> {
    block_on(case.store.get(space, key)).unwrap()
}

fn a_value_is_set_changed_and_removed(case: &Case) {
    assert_eq!(get(case, "s", "k"), None);
    commit(&*case.store, values(&[("s", "k", Some(json!(1)))]));
    assert_eq!(get(case, "s", "k"), Some(json!(1)));
    commit(&*case.store, values(&[("s", "k", Some(json!({"two": 2})))]));
    assert_eq!(get(case, "s", "k"), Some(json!({"two": 2})));
    commit(&*case.store, values(&[("s", "k", None), ("s", "never", None)]));
    assert_eq!(get(case, "s", "k"), None);
}

fn changes_of_one_batch_happen_in_order(case: &Case) {
    commit(&*case.store, values(&[("s", "a", Some(json!(1))), ("s", "a", Some(json!(2))), ("s", "b", Some(json!(3)))]));
    commit(&*case.store, values(&[("s", "b", None), ("s", "a", None), ("s", "a", Some(json!(4)))]));
    assert_eq!((get(case, "s", "a"), get(case, "s", "b")), (Some(json!(4)), None));
}

fn values_read_back_as_they_were_written(case: &Case) {
    let large = "v".repeat(300_000);
    for value in [
        json!(null),
        json!(0.1),
        json!(1e300),
        json!(-5),
        json!(u64::MAX),
        json!("\0"),
        json!([{"a": [true]}]),
        json!(large),
    ] {
        commit(&*case.store, values(&[("s", "k", Some(value.clone()))]));
        assert_eq!(get(case, "s", "k"), Some(value));
    }
}

fn spaces_keep_their_keys_apart(case: &Case) {
    commit(&*case.store, values(&[("a", "k", Some(json!(1))), ("b", "k", Some(json!(2))), ("ab", "", Some(json!(3)))]));
    assert_eq!((get(case, "a", "k"), get(case, "b", "k")), (Some(json!(1)), Some(json!(2))));
    assert_eq!(get(case, "a", "b"), None);
    assert_eq!(block_on(case.store.keys("a", "")).unwrap(), ["k"]);
}

fn keys_list_by_prefix_in_order(case: &Case) {
    for key in ["b", "a/2", "a", "a/10", "A", "a_", "a%", "é", "a/\u{10ffff}", "a0"] {
        commit(&*case.store, values(&[("s", key, Some(json!(0)))]));
    }
    let keys = |prefix| block_on(case.store.keys("s", prefix)).unwrap();
    assert_eq!(keys("a/"), ["a/10", "a/2", "a/\u{10ffff}"]);
    assert_eq!(keys("a"), ["a", "a%", "a/10", "a/2", "a/\u{10ffff}", "a0", "a_"]);
    assert_eq!(keys(""), ["A", "a", "a%", "a/10", "a/2", "a/\u{10ffff}", "a0", "a_", "b", "é"]);
    assert_eq!(keys("a/\u{10ffff}"), ["a/\u{10ffff}"]);
    assert_eq!(keys("c"), [""; 0]);
}

fn content_is_kept_by_its_hash(case: &Case) {
    let contents: [&[u8]; 3] = [b"", b"\0\xff\xfe", &[7; 200_000]];
    for content in contents {
        let hash = content_hash(content);
        assert_eq!(block_on(case.store.blob(&hash)).unwrap(), None);
        // The same again is no error.
        for _ in 0..2 {
            let mut batch = Batch::default();
            batch.blobs = vec![(hash.clone(), content.into())];
            commit(&*case.store, batch);
        }
        assert_eq!(block_on(case.store.blob(&hash)).unwrap().as_deref(), Some(content));
    }
}

fn a_batch_is_written_only_where_values_are_as_expected(case: &Case) {
    let expecting = |expected: Option<Value>, value: Value| {
        let mut batch = values(&[("s", "k", Some(value)), ("s", "other", Some(json!(true)))]);
        batch.expected.push(("s".into(), "k".into(), expected));
        batch
    };
    refuse(&*case.store, codes::VALUE_CONFLICT, expecting(Some(json!(1)), json!(2)));
    assert_eq!((get(case, "s", "k"), get(case, "s", "other")), (None, None), "all or nothing");
    commit(&*case.store, expecting(None, json!({"n": 1.5, "a": [1, null]})));
    let error = refuse(&*case.store, codes::VALUE_CONFLICT, expecting(None, json!(2)));
    assert_eq!(error.body().details["key"], json!("k"));
    commit(&*case.store, expecting(Some(json!({"a": [1, null], "n": 1.5})), json!(3)));
    assert_eq!(get(case, "s", "k"), Some(json!(3)));
}

fn a_step_s_own_statements_are_written_with_the_batch_or_refused(case: &Case) {
    let mut batch = values(&[("s", "k", Some(json!(1)))]);
    batch.sql.push(SqlStatement::new("CREATE TABLE mine (n)", Vec::new()));
    if !case.store.capabilities().sql {
        refuse(&*case.store, codes::UNSUPPORTED, batch);
        assert_eq!(get(case, "s", "k"), None);
        return;
    }
    commit(&*case.store, batch);
    let mut insert = values(&[("s", "k", Some(json!(2)))]);
    insert.sql.push(SqlStatement::new("INSERT INTO mine VALUES (?1)", vec![json!([1])]));
    let mut both = insert.clone();
    commit(&*case.store, insert);
    both.values[0].2 = Some(json!(3));
    both.sql.push(SqlStatement::new("INSERT INTO theirs VALUES (1)", Vec::new()));
    refuse(&*case.store, codes::STEP_SQL_FAILED, both);
    assert_eq!(get(case, "s", "k"), Some(json!(2)), "all or nothing");
    let mut count = values(&[]);
    let mut statement = SqlStatement::new("UPDATE mine SET n = n WHERE n = '[1]'", Vec::new());
    statement.rows = Some(1);
    count.sql.push(statement);
    commit(&*case.store, count);
}
