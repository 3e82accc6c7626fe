//! ARP and neighbour-discovery packets, without link-layer headers: bytes in, bytes out.
//!
//! Holds no socket and no state; a packet from the wire may be anything, so everything read is checked for length.
//! Announcements serve S9 (clients find the VIP at its new place at once); `claimant` serves the watch for another
//! host that claims the VIP. Also holds the kernel-side filters that let only those packets through to us.
//! References: RFC 826, RFC 5227 (ARP), RFC 4861 and 4862 (neighbour discovery).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use socket2::SockFilter;

/// A hardware address.
pub(super) type Mac = [u8; 6];

const BROADCAST: Mac = [0xff; 6];
const ARP_REQUEST: u8 = 1;
const ARP_REPLY: u8 = 2;
const IPV6_HEADER: usize = 40;
const ICMPV6: u8 = 58;
const NEIGHBOUR_SOLICITATION: u8 = 135;
const NEIGHBOUR_ADVERTISEMENT: u8 = 136;
/// ICMPv6 type, code, checksum, flags or reserved bytes, target.
const ND_LENGTH: usize = 24;
const OPTION_TARGET_MAC: u8 = 2;
/// "This replaces what you knew", neither an answer nor from a router.
const FLAG_OVERRIDE: u8 = 0x20;
/// Neighbour discovery is only believed when no router can have forwarded it.
const HOP_LIMIT: u8 = 255;
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

/// A packet and where on the link it goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) ethertype: u16,
    pub(super) to: Mac,
    pub(super) body: Vec<u8>,
}

/// The ethertype that carries address resolution for this address.
pub(super) fn ethertype(address: IpAddr) -> u16 {
    match address {
        IpAddr::V4(_) => libc::ETH_P_ARP as u16,
        IpAddr::V6(_) => libc::ETH_P_IPV6 as u16,
    }
}

/// One burst that says "the VIP is at `mac`". Both ARP forms, since some stacks heed only one of them.
pub(super) fn announcement(address: IpAddr, mac: Mac) -> Vec<Frame> {
    match address {
        IpAddr::V4(vip) => {
            let arp = |operation, target| arp(operation, mac, vip, target, vip);
            vec![arp(ARP_REQUEST, [0; 6]), arp(ARP_REPLY, mac)]
        }
        IpAddr::V6(vip) => vec![advertisement(vip, mac)],
    }
}

/// The question "who has the VIP?", asked without claiming it and without touching anybody's cache.
pub(super) fn probe(address: IpAddr, mac: Mac) -> Frame {
    match address {
        IpAddr::V4(vip) => arp(ARP_REQUEST, mac, Ipv4Addr::UNSPECIFIED, [0; 6], vip),
        IpAddr::V6(vip) => solicitation(vip),
    }
}

/// The hardware address that this packet says the VIP has; `source` is the link-layer sender.
pub(super) fn claimant(address: IpAddr, body: &[u8], source: Mac) -> Option<Mac> {
    match address {
        IpAddr::V4(vip) => {
            let ethernet_and_ipv4 = body.starts_with(&[0, 1, 8, 0, 6, 4]);
            let sender = body.get(14..18)?;
            let mac = body.get(8..14)?.try_into().ok()?;
            (ethernet_and_ipv4 && sender == vip.octets()).then_some(mac)
        }
        IpAddr::V6(vip) => {
            let advertisement = body.get(6) == Some(&ICMPV6)
                && body.get(7) == Some(&HOP_LIMIT)
                && body.get(IPV6_HEADER) == Some(&NEIGHBOUR_ADVERTISEMENT);
            let target = body.get(IPV6_HEADER + 8..IPV6_HEADER + ND_LENGTH)?;
            (advertisement && target == vip.octets())
                .then(|| target_mac(&body[IPV6_HEADER + ND_LENGTH..]).unwrap_or(source))
        }
    }
}

/// Finds the target's hardware address among neighbour-discovery options.
fn target_mac(mut options: &[u8]) -> Option<Mac> {
    while let [kind, units, ..] = *options {
        let length = usize::from(units) * 8;
        if length == 0 || length > options.len() {
            return None;
        }
        if kind == OPTION_TARGET_MAC {
            return options.get(2..8)?.try_into().ok();
        }
        options = &options[length..];
    }
    None
}

fn arp(operation: u8, mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Frame {
    let mut body = Vec::with_capacity(28);
    body.extend_from_slice(&[0, 1, 8, 0, 6, 4, 0, operation]);
    body.extend_from_slice(&mac);
    body.extend_from_slice(&sender.octets());
    body.extend_from_slice(&target_mac);
    body.extend_from_slice(&target.octets());
    Frame {
        ethertype: libc::ETH_P_ARP as u16,
        to: BROADCAST,
        body,
    }
}

fn advertisement(vip: Ipv6Addr, mac: Mac) -> Frame {
    let mut message = vec![NEIGHBOUR_ADVERTISEMENT, 0, 0, 0, FLAG_OVERRIDE, 0, 0, 0];
    message.extend_from_slice(&vip.octets());
    message.extend_from_slice(&[OPTION_TARGET_MAC, 1]);
    message.extend_from_slice(&mac);
    icmpv6(vip, ALL_NODES, message)
}

fn solicitation(vip: Ipv6Addr) -> Frame {
    let [.., a, b, c] = vip.octets();
    let to = Ipv6Addr::new(
        0xff02,
        0,
        0,
        0,
        0,
        1,
        0xff00 | u16::from(a),
        u16::from_be_bytes([b, c]),
    );
    let mut message = vec![NEIGHBOUR_SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
    message.extend_from_slice(&vip.octets());
    // From the unspecified address, as duplicate address detection asks: the answer goes to all nodes.
    icmpv6(Ipv6Addr::UNSPECIFIED, to, message)
}

fn icmpv6(from: Ipv6Addr, to: Ipv6Addr, mut message: Vec<u8>) -> Frame {
    let length = (message.len() as u16).to_be_bytes();
    let mut pseudo = Vec::with_capacity(IPV6_HEADER + message.len());
    pseudo.extend_from_slice(&from.octets());
    pseudo.extend_from_slice(&to.octets());
    pseudo.extend_from_slice(&[0, 0, length[0], length[1], 0, 0, 0, ICMPV6]);
    pseudo.extend_from_slice(&message);
    let sum = checksum(&pseudo).to_be_bytes();
    message[2..4].copy_from_slice(&sum);

    let mut body = vec![0x60, 0, 0, 0, length[0], length[1], ICMPV6, HOP_LIMIT];
    body.extend_from_slice(&from.octets());
    body.extend_from_slice(&to.octets());
    body.extend_from_slice(&message);
    let [.., a, b, c, d] = to.octets();
    Frame {
        ethertype: libc::ETH_P_IPV6 as u16,
        to: [0x33, 0x33, a, b, c, d],
        body,
    }
}

/// The Internet checksum (RFC 1071) over an even number of bytes.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks_exact(2)
        .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// A socket filter that passes only packets in which somebody says where the VIP is. Offsets count from the network
/// header; a load beyond the packet's end rejects it.
pub(super) fn filter(address: IpAddr) -> Vec<SockFilter> {
    let mut conditions: Vec<(u32, u32, u32)> = Vec::new();
    let (byte, word) = (libc::BPF_B, libc::BPF_W);
    match address {
        IpAddr::V4(vip) => conditions.push((word, 14, u32::from(vip))),
        IpAddr::V6(vip) => {
            conditions.push((byte, 6, ICMPV6.into()));
            conditions.push((byte, 40, NEIGHBOUR_ADVERTISEMENT.into()));
            for (index, part) in vip.octets().chunks_exact(4).enumerate() {
                conditions.push((
                    word,
                    48 + 4 * index as u32,
                    u32::from_be_bytes([part[0], part[1], part[2], part[3]]),
                ));
            }
        }
    }
    let mut program = Vec::new();
    for (left, (size, offset, value)) in conditions.iter().enumerate() {
        // Two instructions for every condition that still follows, then "accept"; after that, "reject".
        let to_reject = 2 * (conditions.len() - left - 1) + 1;
        program.push(SockFilter::new(
            (libc::BPF_LD | size | libc::BPF_ABS) as u16,
            0,
            0,
            *offset,
        ));
        program.push(SockFilter::new(
            (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            0,
            to_reject as u8,
            *value,
        ));
    }
    program.push(SockFilter::new(
        (libc::BPF_RET | libc::BPF_K) as u16,
        0,
        0,
        u32::MAX,
    ));
    program.push(SockFilter::new(
        (libc::BPF_RET | libc::BPF_K) as u16,
        0,
        0,
        0,
    ));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 7];
    const OTHER: Mac = [2, 0, 0, 0, 0, 9];

    fn v4() -> IpAddr {
        "10.9.0.100".parse().unwrap()
    }

    fn v6() -> IpAddr {
        "fd00:9::abcd:1234".parse().unwrap()
    }

    #[test]
    fn arp_announcement_is_gratuitous_in_both_forms() {
        let frames = announcement(v4(), MAC);
        assert_eq!(frames.len(), 2);
        for (frame, operation) in frames.iter().zip([1, 2]) {
            assert_eq!(frame.to, [0xff; 6]);
            assert_eq!(frame.body.len(), 28);
            assert_eq!(frame.body[..8], [0, 1, 8, 0, 6, 4, 0, operation]);
            assert_eq!(
                frame.body[14..18],
                frame.body[24..28],
                "sender and target are both the VIP"
            );
            assert_eq!(claimant(v4(), &frame.body, OTHER), Some(MAC));
        }
        assert_eq!(
            frames[1].body[18..24],
            MAC,
            "a gratuitous reply carries the sender's own address as target"
        );
    }

    #[test]
    fn arp_probe_claims_nothing() {
        assert_eq!(claimant(v4(), &probe(v4(), MAC).body, MAC), None);
    }

    #[test]
    fn advertisement_is_what_rfc_4861_asks_for() {
        let [frame] = announcement(v6(), MAC).try_into().unwrap();
        assert_eq!(frame.to, [0x33, 0x33, 0, 0, 0, 1]);
        assert_eq!(frame.body[7], 255);
        assert_eq!(frame.body[44], 0x20);
        assert_eq!(claimant(v6(), &frame.body, OTHER), Some(MAC));
        // Summed with its own checksum in place, a correct packet gives zero.
        let mut whole = frame.body[8..40].to_vec();
        whole.extend_from_slice(&[0, 0, 0, 32, 0, 0, 0, 58]);
        whole.extend_from_slice(&frame.body[40..]);
        assert_eq!(checksum(&whole), 0);
    }

    #[test]
    fn solicitation_goes_to_the_solicited_node_group() {
        let frame = probe(v6(), MAC);
        assert_eq!(frame.to, [0x33, 0x33, 0xff, 0xcd, 0x12, 0x34]);
        assert_eq!(
            frame.body[8..24],
            [0; 16],
            "asked from the unspecified address"
        );
        assert_eq!(claimant(v6(), &frame.body, MAC), None);
    }

    #[test]
    fn advertisement_without_option_is_judged_by_its_sender() {
        let mut body = announcement(v6(), MAC).remove(0).body;
        body.truncate(64);
        assert_eq!(claimant(v6(), &body, OTHER), Some(OTHER));
    }

    #[test]
    fn cut_or_foreign_packets_claim_nothing() {
        for (vip, other) in [(v4(), "10.9.0.101"), (v6(), "fd00:9::abcd:1235")] {
            let body = announcement(vip, MAC).remove(0).body;
            assert_eq!(claimant(other.parse().unwrap(), &body, OTHER), None);
            for length in 0..body.len() {
                let _ = claimant(vip, &body[..length], OTHER);
            }
        }
        assert_eq!(
            claimant(v4(), &announcement(v4(), MAC)[0].body[..17], OTHER),
            None
        );
        assert_eq!(
            target_mac(&[2, 0, 0, 0, 0, 0, 0, 0]),
            None,
            "an option of length zero must not loop"
        );
    }
}
