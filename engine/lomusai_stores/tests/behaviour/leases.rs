//! Who may write a run.

use lomusai_core::Result;
use lomusai_core::testing::block_on;
use lomusai_wire::{RunStatus, codes};

use crate::Case;
use crate::kit::{append, append_as, commit, of, refuse, told};

crate::for_each_store![
    a_run_without_a_living_holder_can_be_claimed,
    a_living_holder_keeps_its_run,
    a_holder_may_claim_its_own_run,
    an_earlier_holder_cannot_write_any_more,
    a_heartbeat_can_be_renewed,
    a_retired_owner_holds_nothing,
    a_released_run_is_free,
    a_release_under_an_old_epoch_changes_nothing,
    a_run_that_is_not_there_cannot_be_claimed,
    a_run_that_has_ended_is_held_by_nobody,
];

/// A run that `here` writes and holds.
fn start(case: &Case) {
    commit(&*case.store, of(append("r", 0, &["1"])));
}

fn claim(case: &Case, owner: &str, now_ms: u64) -> Result<u64> {
    block_on(case.store.claim(&"r".into(), owner, now_ms))
}

fn heartbeat(case: &Case, owner: &str, until_ms: u64) {
    block_on(case.store.heartbeat(owner, until_ms)).unwrap();
}

#[track_caller]
fn refused(result: Result<u64>) {
    let error = result.unwrap_err();
    assert!(error.is(codes::RUN_ACTIVE), "{error:?}");
    assert_eq!((&error.body().details["owner"], &error.body().details["run_id"]), (&"here".into(), &"r".into()));
}

fn a_run_without_a_living_holder_can_be_claimed(case: &Case) {
    start(case);
    // `here` never said that it is alive.
    assert_eq!(claim(case, "there", 0).unwrap(), 2);
}

fn a_living_holder_keeps_its_run(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    refused(claim(case, "there", 99));
    refused(claim(case, "there", 100));
    assert_eq!(claim(case, "there", 101).unwrap(), 2);
}

fn a_holder_may_claim_its_own_run(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    assert_eq!(claim(case, "here", 0).unwrap(), 2);
    refused(claim(case, "there", 0));
}

fn an_earlier_holder_cannot_write_any_more(case: &Case) {
    start(case);
    let epoch = claim(case, "there", 0).unwrap();
    refuse(&*case.store, codes::SEQUENCE_CONFLICT, of(append("r", 1, &["late"])));
    let mut next = append("r", 1, &["2"]);
    next.epoch = epoch;
    commit(&*case.store, of(next));
    assert_eq!(told(&*case.store, "r", 0, 9), ["1", "2"]);
}

fn a_heartbeat_can_be_renewed(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    heartbeat(case, "here", 200);
    refused(claim(case, "there", 150));
    heartbeat(case, "here", u64::MAX);
    refused(claim(case, "there", 1 << 60));
}

fn a_retired_owner_holds_nothing(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    block_on(case.store.retire("here")).unwrap();
    assert_eq!(claim(case, "there", 0).unwrap(), 2);
    // Coming back does not give it back.
    heartbeat(case, "here", 100);
    heartbeat(case, "there", 100);
    let error = claim(case, "here", 0).unwrap_err();
    assert_eq!(error.body().details["owner"], "there");
}

fn a_released_run_is_free(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    block_on(case.store.release(&"r".into(), 1)).unwrap();
    assert_eq!(claim(case, "there", 0).unwrap(), 2);
}

fn a_release_under_an_old_epoch_changes_nothing(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    assert_eq!(claim(case, "here", 0).unwrap(), 2);
    block_on(case.store.release(&"r".into(), 1)).unwrap();
    refused(claim(case, "there", 0));
    block_on(case.store.release(&"other".into(), 1)).unwrap();
}

fn a_run_that_is_not_there_cannot_be_claimed(case: &Case) {
    let error = claim(case, "here", 0).unwrap_err();
    assert!(error.is(codes::RUN_UNKNOWN), "{error:?}");
}

fn a_run_that_has_ended_is_held_by_nobody(case: &Case) {
    start(case);
    heartbeat(case, "here", 100);
    commit(&*case.store, of(append_as(RunStatus::Completed, "r", 1, &["2"])));
    assert_eq!(claim(case, "there", 0).unwrap(), 2);
}
