//! What is told of a change, in which order, and by whom.

use super::probe::picture;
use crate::cluster::{Epoch, NodeId};
use crate::sentinel::{Herald, News, Picture, Role, Stage};
use std::time::Duration;

/// Tells of one picture after the other.
struct Listener {
    herald: Herald,
    picture: Picture,
    leading: bool,
}

impl Listener {
    fn new(leading: bool) -> Self {
        let mut listener = Self { herald: Herald::default(), picture: picture(), leading };
        assert_eq!(listener.next(|_| {}), Vec::<String>::new(), "of the first picture everything is known");
        listener
    }

    /// What is told once the picture has changed like this, as `channel text`.
    fn next(&mut self, change: impl FnOnce(&mut Picture)) -> Vec<String> {
        change(&mut self.picture);
        let news = self.herald.tell(&self.picture, self.leading);
        news.into_iter().map(|News { channel, text }| format!("{channel} {text}")).collect()
    }
}

fn later(picture: &mut Picture, ms: u64) {
    picture.at = picture.at + Duration::from_millis(ms);
}

fn seal(picture: &mut Picture) {
    let at = picture.at;
    let group = &mut picture.groups[0];
    (group.until, group.down, group.sealing) = (None, Some(at), Some(at));
    group.stage = Stage::Sealing { planned: false };
}

/// Node 2 is promoted; who served is down.
fn promote(picture: &mut Picture) {
    let group = &mut picture.groups[0];
    (group.epoch, group.stage, group.sealing) = (Epoch(2), Stage::Stable, None);
    let old = std::mem::replace(&mut group.primary, group.replicas.remove(0));
    group.replicas.insert(0, old);
    group.replicas[0].down = Some(picture.at);
    picture.epoch = Epoch(2);
}

fn serve(picture: &mut Picture) {
    let until = picture.at + Duration::from_millis(600);
    let group = &mut picture.groups[0];
    (group.until, group.down) = (Some(until), None);
    group.primary.role.0 = Role::Primary;
}

const OLD: &str = "mymaster 10.0.0.1 6379";

#[test]
fn a_failover_is_told_by_its_leader_in_sentinels_words() {
    let mut listener = Listener::new(true);
    let told = listener.next(seal);
    assert_eq!(
        told,
        [
            "+sdown master mymaster 10.0.0.1 6379",
            "+odown master mymaster 10.0.0.1 6379 #quorum 2/2",
            "+new-epoch 2",
            "+try-failover master mymaster 10.0.0.1 6379",
            "+vote-for-leader 0000000000000000000000000000000100000001 2",
            "+elected-leader master mymaster 10.0.0.1 6379",
            "+failover-state-select-slave master mymaster 10.0.0.1 6379",
        ]
    );
    let told = listener.next(promote);
    assert_eq!(
        told,
        [
            "+selected-slave slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379",
            "+failover-state-send-slaveof-noone slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379",
            "+failover-state-wait-promotion slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379",
        ],
        "promoted is not serving: nobody is sent there yet"
    );
    let told = listener.next(serve);
    assert_eq!(
        told,
        [
            "+promoted-slave slave 10.0.0.2:6379 10.0.0.2 6379 @ mymaster 10.0.0.1 6379",
            "+failover-state-reconf-slaves master mymaster 10.0.0.1 6379",
            "+failover-end master mymaster 10.0.0.1 6379",
            "+switch-master mymaster 10.0.0.1 6379 10.0.0.2 6379",
            "+slave slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "+slave slave 10.0.0.3:6379 10.0.0.3 6379 @ mymaster 10.0.0.2 6379",
            "+sdown slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "+slave-reconf-inprog slave 10.0.0.3:6379 10.0.0.3 6379 @ mymaster 10.0.0.2 6379",
            "+slave-reconf-done slave 10.0.0.3:6379 10.0.0.3 6379 @ mymaster 10.0.0.2 6379",
        ]
    );
    assert_eq!(listener.next(|_| {}), Vec::<String>::new(), "once");
    let told = listener.next(|picture| {
        let old = &mut picture.groups[0].replicas[0];
        (old.down, old.role.0, old.follows, old.run_id) = (None, Role::Replica, true, "f".repeat(40));
    });
    assert_eq!(
        told,
        [
            "+reboot slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "+role-change slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379 new reported role is slave",
            "+convert-to-slave slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "+slave-reconf-inprog slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "+slave-reconf-done slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
            "-sdown slave 10.0.0.1:6379 10.0.0.1 6379 @ mymaster 10.0.0.2 6379",
        ]
    );
}

#[test]
fn the_others_say_whose_word_they_took() {
    let mut listener = Listener::new(false);
    let told = listener.next(seal);
    assert_eq!(told, [format!("+sdown master {OLD}"), format!("+odown master {OLD} #quorum 2/2")]);
    assert_eq!(listener.next(promote), ["+new-epoch 2"]);
    let told = listener.next(serve);
    let agent = "0000000000000000000000000000000200000001";
    assert_eq!(
        told[..2],
        [
            format!("+config-update-from sentinel {agent} 10.0.0.2 26379 @ {OLD}"),
            format!("+switch-master {OLD} 10.0.0.2 6379"),
        ]
    );
}

/// Pictures are made now and then: a change that fell between two of them is told all the same, once.
#[test]
fn a_switch_between_two_pictures_is_told() {
    let mut listener = Listener::new(false);
    let told = listener.next(|picture| {
        seal(picture);
        promote(picture);
        serve(picture);
    });
    assert_eq!(told.iter().filter(|line| line.starts_with("+switch-master ")).count(), 1, "{told:#?}");
    assert!(!told.iter().any(|line| line.starts_with("+sdown master")), "{told:#?}");
    assert_eq!(listener.next(|_| {}), Vec::<String>::new());
}

#[test]
fn a_switchover_is_no_fault() {
    let mut listener = Listener::new(true);
    let told = listener.next(|picture| picture.groups[0].stage = Stage::Switching(NodeId(2)));
    assert!(!told.iter().any(|line| line.contains("down")), "{told:#?}");
    assert_eq!(
        told.last().map(String::as_str),
        Some(format!("+selected-slave slave 10.0.0.2:6379 10.0.0.2 6379 @ {OLD}").as_str())
    );
    let told = listener.next(|picture| {
        seal(picture);
        picture.groups[0].stage = Stage::Sealing { planned: true };
    });
    assert_eq!(told, Vec::<String>::new());
    let told = listener.next(promote);
    assert_eq!(told.iter().filter(|line| line.starts_with("+selected-slave")).count(), 0, "it was told: {told:#?}");
    assert!(listener.next(serve).contains(&format!("+switch-master {OLD} 10.0.0.2 6379")));
}

#[test]
fn a_switchover_that_is_called_off_is_an_abort() {
    let mut listener = Listener::new(true);
    listener.next(|picture| picture.groups[0].stage = Stage::Switching(NodeId(2)));
    let told = listener.next(|picture| picture.groups[0].stage = Stage::Stable);
    assert_eq!(told, [format!("-failover-abort-slave-timeout master {OLD}")]);
}

/// Nobody serves, but nothing is sealed: only what lasts for a lease is told, and its end.
#[test]
fn a_short_silence_is_not_told() {
    let mut listener = Listener::new(false);
    let silent = |picture: &mut Picture| {
        picture.groups[0].until = None;
        picture.groups[0].down = Some(picture.at);
    };
    assert_eq!(listener.next(silent), Vec::<String>::new());
    assert_eq!(listener.next(|picture| later(picture, 799)), Vec::<String>::new());
    assert_eq!(listener.next(|picture| later(picture, 1)), [format!("+sdown master {OLD}")]);
    assert_eq!(listener.next(serve), [format!("-sdown master {OLD}")]);
}

#[test]
fn nobody_to_promote_is_told_once() {
    let mut listener = Listener::new(true);
    listener.next(seal);
    assert_eq!(listener.next(|picture| later(picture, 7_999)), Vec::<String>::new());
    let told = listener.next(|picture| later(picture, 1));
    assert_eq!(told, [format!("-failover-abort-no-good-slave master {OLD}")]);
    assert_eq!(listener.next(|picture| later(picture, 8_000)), Vec::<String>::new());
}

/// The same node serves again, as another process: no switch, but a reboot.
#[test]
fn the_same_primary_again_is_no_switch() {
    let mut listener = Listener::new(true);
    listener.next(seal);
    listener.next(|picture| {
        let group = &mut picture.groups[0];
        (group.epoch, group.stage, group.sealing) = (Epoch(2), Stage::Stable, None);
        group.primary.run_id = "e".repeat(40);
    });
    let told = listener.next(serve);
    let meant = ["-failover-abort-slave-timeout", "+reboot", "-odown", "-sdown"];
    assert_eq!(told, meant.map(|channel| format!("{channel} master {OLD}")));
}

#[test]
fn replicas_and_sentinels_come_and_go() {
    let mut listener = Listener::new(false);
    let told = listener.next(|picture| {
        let mut fourth = picture.groups[0].replicas[0].clone();
        (fourth.node, fourth.address.host) = (NodeId(4), "10.0.0.4".to_owned());
        picture.groups[0].replicas.push(fourth);
        let mut agent = picture.others[0].clone();
        (agent.node, agent.address.as_mut().expect("an address").host) = (NodeId(4), "10.0.0.4".to_owned());
        agent.id = "4".repeat(40);
        picture.others.push(agent);
    });
    let sentinel = format!("sentinel {} 10.0.0.4 26379 @ {OLD}", "4".repeat(40));
    assert_eq!(told, [format!("+slave slave 10.0.0.4:6379 10.0.0.4 6379 @ {OLD}"), format!("+sentinel {sentinel}")]);
    let told = listener.next(|picture| picture.others[2].down = Some(picture.at));
    assert_eq!(told, [format!("+sdown {sentinel}")]);
    let told = listener.next(|picture| picture.others[2].down = None);
    assert_eq!(told, [format!("-sdown {sentinel}")]);
    // Not in step for a lease: readers are to leave it alone.
    let told = listener.next(|picture| picture.groups[0].replicas[2].apart = Some(picture.at));
    assert_eq!(told, Vec::<String>::new());
    let told = listener.next(|picture| {
        later(picture, 800);
        serve(picture);
    });
    assert_eq!(told, [format!("+sdown slave 10.0.0.4:6379 10.0.0.4 6379 @ {OLD}")]);
}

#[test]
fn groups_are_monitored_from_when_they_are_there() {
    let mut listener = Listener::new(false);
    let told = listener.next(|picture| {
        let mut second = picture.groups[0].clone();
        second.name = "second".to_owned();
        picture.groups.push(second);
    });
    assert_eq!(told.first().map(String::as_str), Some("+monitor master second 10.0.0.1 6379 quorum 2"));
    let told = listener.next(|picture| picture.groups.truncate(1));
    assert_eq!(told, ["-monitor master second 10.0.0.1 6379"]);
}

#[test]
fn a_replica_has_a_lease_of_grace_only_once_it_was_in_step() {
    let lost = |joined| {
        let mut picture = picture();
        let (at, lease) = (picture.at, picture.lease);
        let found = &mut picture.groups[0].replicas[0];
        (found.joined, found.apart, found.down) = (joined, Some(at), None);
        (found.unfit(at, lease), found.unfit(at + lease, lease))
    };
    assert_eq!(lost(true), (false, true), "it was in step in this epoch");
    assert_eq!(lost(false), (true, true), "a former primary whose host is lost, to be connected to by nobody");
}
