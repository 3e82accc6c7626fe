//! Tables over the leader's poll: who holds no live promise (S3).

use super::*;

#[test]
fn s3_s5_nothing_is_proposed_by_one_that_does_not_lead() {
    let mut agent = Agent::new(4, &state(3), None);
    let surrender = Item::Surrender { group: name(), epoch: Epoch(1), why: Why::Operator };
    assert_eq!(proposed(&agent.heard(1100, 1, surrender.clone())), None);
    let leads = Leadership { term: 1, leader: Some(NodeId(4)), leading: true, voters: Default::default() };
    let actions = agent.at(1101, What::Leadership(leads));
    assert_eq!(proposed(&actions), Some(seal(Why::Operator)));
}

pub(super) fn leader(state: &State) -> Agent {
    let mut agent = Agent::new(4, state, None);
    let leads = Leadership { term: 1, leader: Some(NodeId(4)), leading: true, voters: Default::default() };
    agent.at(1000, What::Leadership(leads));
    agent
}

fn polls(actions: &[Action]) -> Option<u64> {
    let found = |items: &[Item]| items.iter().find_map(|i| if let Item::Poll { id } = i { Some(*id) } else { None });
    actions.iter().find_map(|action| if let Action::Send { items, .. } = action { found(items) } else { None })
}

#[test]
fn s3_a_majority_must_answer_one_fresh_poll() {
    let vacant = |id| Item::Vacant { id, groups: vec![(name(), Epoch(1))] };
    // When each answer comes; four guardians, the leader is one of them.
    for (answers, sealed) in [
        (vec![(1, 1801), (2, 1802)], true),
        (vec![(1, 1801)], false),
        (vec![], false),
        (vec![(1, 1801), (2, 1934)], false),
    ] {
        let mut agent = leader(&state(3));
        assert_eq!(polls(&agent.tick(1799)), None, "not before one lease after the start");
        let id = polls(&agent.tick(1800)).unwrap();
        let mut last = None;
        for (from, time) in &answers {
            last = proposed(&agent.heard(*time, *from, vacant(id)));
        }
        assert_eq!(last == Some(seal(Why::PrimarySilent)), sealed, "{answers:?}");
    }
    // Silence is no answer, however long.
    let mut agent = leader(&state(3));
    for time in (1800..20_000).step_by(50) {
        assert_eq!(proposed(&agent.tick(time)), None);
    }
}

#[test]
fn s3_a_guardian_with_a_promise_is_not_vacant() {
    let mut agent = leader(&state(3));
    agent.heard(1700, 1, renewal(true));
    assert_eq!(polls(&agent.tick(2499)), None);
    assert!(polls(&agent.tick(2500)).is_some());
}

#[test]
fn s3_one_lease_from_the_promotion_on() {
    // §6 trace 9: right after `Promote` nobody holds a promise yet.
    let mut agent = leader(&changed(3, &[seal(Why::Operator)]));
    let promoted = changed(3, &[seal(Why::Operator), promotion(2)]);
    agent.at(5000, What::Applied(Arc::new(promoted)));
    assert_eq!(polls(&agent.tick(5799)), None);
    assert!(polls(&agent.tick(5800)).is_some());
}
