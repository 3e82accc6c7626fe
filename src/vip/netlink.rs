//! Blocking request and answer over one netlink socket.
//!
//! The kernel handles a netlink request inside `send`, under its global network lock. Another process that keeps that
//! lock makes `send` itself wait, and no non-blocking flag helps: this module must therefore never be called on the
//! runtime's thread, only on a thread of its own. Waiting for an answer is bounded here; waiting for the lock is
//! bounded by the callers, who do not wait for the thread longer than they can afford (S9: fencing waits for nothing).
//! Answers are handed out raw, so that an attribute of a newer kernel that we do not use cannot make us fail.

use std::{io, time::Duration};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkBuffer, NetlinkHeader,
    NetlinkMessage, NetlinkPayload, NetlinkSerializable,
};
use netlink_sys::{Socket, SocketAddr};
use nix::{
    errno::Errno,
    sys::{
        socket::{setsockopt, sockopt::ReceiveTimeout},
        time::{TimeVal, TimeValLike},
    },
};

use super::error::{Capability, VipError};

/// How long the kernel may take to answer once it has taken a request.
const ANSWER_WITHIN: Duration = Duration::from_millis(250);
/// The kernel fills dump datagrams up to 32 KiB.
pub(super) const BUFFER: usize = 64 * 1024;
/// A dump during which the table changed is read again at most this often.
const DUMP_TRIES: usize = 4;

const NLMSG_NOOP: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const NLMSG_DONE: u16 = 3;
const NLMSG_HEADER: usize = 16;

/// One message of an answer, undecoded.
pub(super) struct Answer {
    pub(super) kind: u16,
    pub(super) payload: Vec<u8>,
}

/// One netlink socket, connected to the kernel.
pub(super) struct Channel {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

impl Channel {
    /// Opens a socket of the protocol in the network namespace of the calling thread.
    pub(super) fn open(protocol: isize) -> Result<Self, VipError> {
        let io = |source| VipError::Io {
            what: "opening a netlink socket",
            source,
        };
        let mut socket = Socket::new(protocol).map_err(io)?;
        socket.bind_auto().map_err(io)?;
        // Connected, the socket takes messages from the kernel only.
        socket.connect(&SocketAddr::new(0, 0)).map_err(io)?;
        let bound = TimeVal::milliseconds(ANSWER_WITHIN.as_millis() as i64);
        setsockopt(&socket, ReceiveTimeout, &bound).map_err(|errno| io(errno.into()))?;
        Ok(Channel {
            socket,
            sequence: 0,
            buffer: Vec::with_capacity(BUFFER),
        })
    }

    /// Asks for a change or for one object, and waits for the acknowledgement.
    pub(super) fn request<M>(
        &mut self,
        what: &'static str,
        message: M,
        flags: u16,
    ) -> Result<Vec<Answer>, VipError>
    where
        M: NetlinkSerializable,
        NetlinkPayload<M>: From<M>,
    {
        self.send(what, message, NLM_F_REQUEST | NLM_F_ACK | flags)?;
        let mut answers = Vec::new();
        self.collect(what, &mut answers)?;
        Ok(answers)
    }

    /// Reads a whole table.
    pub(super) fn dump<M>(
        &mut self,
        what: &'static str,
        message: M,
    ) -> Result<Vec<Answer>, VipError>
    where
        M: NetlinkSerializable + Clone,
        NetlinkPayload<M>: From<M>,
    {
        let mut answers = Vec::new();
        for _ in 0..DUMP_TRIES {
            answers.clear();
            self.send(what, message.clone(), NLM_F_REQUEST | NLM_F_DUMP)?;
            if !self.collect(what, &mut answers)? {
                break;
            }
        }
        // After the last try a possibly incomplete table is still better than none: the caller looks again anyway.
        Ok(answers)
    }

    fn send<M>(&mut self, what: &'static str, message: M, flags: u16) -> Result<(), VipError>
    where
        M: NetlinkSerializable,
        NetlinkPayload<M>: From<M>,
    {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0; packet.buffer_len()];
        packet.serialize(&mut bytes);
        match self.socket.send(&bytes, 0) {
            Ok(_) => Ok(()),
            Err(source) => Err(VipError::Io { what, source }),
        }
    }

    /// Collects answers to the last request; true when the kernel says that the table changed meanwhile.
    fn collect(&mut self, what: &'static str, answers: &mut Vec<Answer>) -> Result<bool, VipError> {
        let mut interrupted = false;
        loop {
            self.receive(what)?;
            for message in split(&self.buffer) {
                let message = message.map_err(|fault| VipError::Malformed { what, fault })?;
                // A late answer to a request that timed out belongs to nobody.
                if message.sequence_number() != self.sequence {
                    continue;
                }
                interrupted |= message.flags() & NLM_F_DUMP_INTR != 0;
                match message.message_type() {
                    NLMSG_NOOP => {}
                    NLMSG_ERROR | NLMSG_DONE => {
                        return outcome(what, message.payload()).map(|()| interrupted);
                    }
                    kind => answers.push(Answer {
                        kind,
                        payload: message.payload().to_vec(),
                    }),
                }
            }
        }
    }

    fn receive(&mut self, what: &'static str) -> Result<(), VipError> {
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => return Ok(()),
                Err(fault) if fault.kind() == io::ErrorKind::Interrupted => {}
                Err(fault) if fault.kind() == io::ErrorKind::WouldBlock => {
                    return Err(VipError::TimedOut {
                        what,
                        after: ANSWER_WITHIN,
                    });
                }
                Err(source) => return Err(VipError::Io { what, source }),
            }
        }
    }
}

/// Splits a datagram into messages.
pub(super) fn split(datagram: &[u8]) -> impl Iterator<Item = Result<NetlinkBuffer<&[u8]>, String>> {
    let mut rest = datagram;
    std::iter::from_fn(move || {
        if rest.len() < NLMSG_HEADER {
            return None;
        }
        match NetlinkBuffer::new_checked(rest) {
            Ok(message) => {
                let length = (message.length() as usize)
                    .max(NLMSG_HEADER)
                    .next_multiple_of(4)
                    .min(rest.len());
                rest = &rest[length..];
                Some(Ok(message))
            }
            Err(fault) => {
                rest = &[];
                Some(Err(fault.to_string()))
            }
        }
    })
}

/// Both the acknowledgement and the end of a dump begin with zero or a negated errno.
fn outcome(what: &'static str, payload: &[u8]) -> Result<(), VipError> {
    let Some(code) = payload.first_chunk::<4>() else {
        return Err(VipError::Malformed {
            what,
            fault: "an acknowledgement without a code".into(),
        });
    };
    match i32::from_ne_bytes(*code) {
        0 => Ok(()),
        code => Err(VipError::from_errno(
            Errno::from_raw(code.saturating_neg()),
            Capability::NetAdmin,
            what,
        )),
    }
}
