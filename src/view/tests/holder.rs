//! Who may be said to serve, and for how long (S9).

use super::*;
use crate::view::{Item, Renewal};

fn serving_renewal(epoch: u64, sent: u64, left: u64) -> Item {
    let left = Duration::from_millis(left);
    Item::Renew(Renewal { serving: super::serving(200), left, ..renewal(epoch, sent) })
}

fn named(view: &View) -> Option<(u64, u64)> {
    view.holder(&name()).map(|(node, until)| (node.0, until.0 / 1_000_000))
}

#[test]
fn a_renewals_word_is_good_while_the_lease_it_tells_of_holds() {
    let mut view = view(2, &state(3), long_lease(), None);
    assert_eq!(named(&view), None, "nothing heard yet");
    heard(&mut view, 1100, 1, Item::Renew(renewal(1, 5000)));
    assert_eq!(named(&view), None, "it does not say that it serves");
    heard(&mut view, 1200, 1, serving_renewal(1, 5100, 600));
    assert_eq!(named(&view), Some((1, 1800)));
    tick(&mut view, 1799);
    assert!(named(&view).is_some());
    tick(&mut view, 1800);
    assert_eq!(named(&view), None, "so long it said, and no longer");
}

#[test]
fn no_word_outlives_the_lease_it_was_given_under() {
    let mut view = view(2, &state(3), long_lease(), None);
    heard(&mut view, 1200, 1, serving_renewal(1, 5100, 60_000));
    assert_eq!(named(&view), Some((1, 2000)));
}

/// A link or this agent stood still: what lay there for ten seconds says nothing of now.
#[test]
fn a_late_renewals_word_is_out_of_date() {
    let mut view = view(2, &state(3), long_lease(), None);
    heard(&mut view, 1200, 1, serving_renewal(1, 5100, 600));
    heard(&mut view, 1360, 1, serving_renewal(1, 5260, 600));
    assert_eq!(named(&view), Some((1, 1960)));
    heard(&mut view, 11_500, 1, serving_renewal(1, 5420, 600));
    assert_eq!(named(&view), None);
    heard(&mut view, 11_520, 1, serving_renewal(1, 15_420, 600));
    assert_eq!(named(&view), Some((1, 12_120)), "the next one came in time");
}

/// The primary's host was started anew: its clock begins again, and so does its epoch.
#[test]
fn another_epochs_clock_is_another_clock() {
    let mut view = view(3, &state(3), long_lease(), None);
    heard(&mut view, 1200, 1, serving_renewal(1, 500_000, 600));
    let mut later = state(3);
    apply(&mut later, GroupCommand::Seal { why: Why::PrimarySilent });
    at(&mut view, 1300, What::Applied(Arc::new(later.clone())));
    assert_eq!(named(&view), None, "sealed: it ends at once");
    apply(&mut later, promotion(2, 300));
    at(&mut view, 1400, What::Applied(Arc::new(later)));
    assert_eq!(named(&view), None, "promoted is not serving");
    heard(&mut view, 1500, 1, serving_renewal(1, 500_300, 600));
    assert_eq!(named(&view), None, "the old one's word is worth nothing");
    heard(&mut view, 1510, 2, serving_renewal(2, 40, 600));
    assert_eq!(named(&view), Some((2, 2110)));
}

#[test]
fn a_surrender_ends_it_at_once() {
    let mut view = view(2, &state(3), long_lease(), None);
    heard(&mut view, 1200, 1, serving_renewal(1, 5100, 600));
    assert!(named(&view).is_some());
    heard(&mut view, 1210, 1, Item::Surrender { group: name(), epoch: Epoch(1), why: Why::InstanceCrashed });
    assert_eq!(named(&view), None);
}

/// Of itself: only with the lease and the posture that ROLE confirmed, and never while it is being fenced.
#[test]
fn a_primary_knows_it_by_its_lease_and_its_role() {
    let mut view = view(1, &state(3), long_lease(), None);
    for guardian in [2, 3] {
        let promise = Item::Promise { group: name(), epoch: Epoch(1), sent_at: ms(1000) };
        heard(&mut view, 1010, guardian, promise);
    }
    assert!(view.lease_live(&name()));
    assert_eq!(named(&view), None, "not confirmed by ROLE yet");
    view.seats.get_mut(&name()).expect("a seat").instance.posture = Posture::Serving(Epoch(1));
    let until = 1000 + 800 * 5 / 6;
    assert_eq!(named(&view), Some((1, until)));
    view.seats.get_mut(&name()).expect("a seat").instance.task = Some((Task::Fence, Epoch(1), ms(1020)));
    assert_eq!(named(&view), None, "on its way out");
    view.seats.get_mut(&name()).expect("a seat").instance.task = None;
    tick(&mut view, until + 1);
    assert_eq!(named(&view), None, "lapsed");
}
