//! One connection: reads, answers, and passes on what is published.
//!
//! An idle connection holds no buffers. A busy one is answered a few requests at a time, and then the others have their
//! turn; what it does not read is not answered, and nothing more of it is read meanwhile.

use super::endpoint::{Failover, now};
use super::herald::News;
use super::house::{Client, House};
use super::picture::Picture;
use super::session::{Context, Effect, Session};
use crate::cluster::GroupName;
use crate::resp::{Decoder, Value};
use bytes::BytesMut;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;
use tokio::sync::{broadcast, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Requests of one connection answered in a row.
const IN_A_ROW: usize = 32;
/// And bytes of answers before they are sent.
const UNSENT: usize = 16 * 1024;
/// Bytes read at once.
const CHUNK: usize = 4096;
/// How long a stranger may take to give the password, and one request to arrive.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long answers may lie unread.
const UNREAD: Duration = Duration::from_secs(10);
/// Of all connections together: whoever would have more lie about is sent away.
const UNREAD_BYTES: usize = 4 * 1024 * 1024;
/// What the kernel keeps of one connection, each way; it doubles that for its own needs.
const KERNEL: usize = 32 * 1024;
/// How long a failover may take to begin.
const BEGIN: Duration = Duration::from_secs(6);
/// When a silent connection's other end is asked whether it is still there; how often again; and how many times.
const KEEPALIVE: (Duration, Duration, u32) = (Duration::from_secs(60), Duration::from_secs(15), 4);

/// What a connection is handed.
#[derive(Debug)]
pub(super) struct Door {
    pub(super) house: House,
    pub(super) picture: watch::Receiver<Arc<Picture>>,
    pub(super) news: broadcast::Sender<Arc<News>>,
    pub(super) asked: mpsc::Sender<Failover>,
}

/// Until it ends.
pub(super) async fn converse(stream: TcpStream, peer: SocketAddr, id: u64, door: &Door) {
    let _ = stream.set_nodelay(true);
    let (idle, again, times) = KEEPALIVE;
    let alive = socket2::TcpKeepalive::new().with_time(idle).with_interval(again).with_retries(times);
    let socket = socket2::SockRef::from(&stream);
    let _ = socket.set_tcp_keepalive(&alive);
    let _ = socket.set_send_buffer_size(KERNEL);
    let _ = socket.set_recv_buffer_size(KERNEL);
    let since = now();
    let local = stream.local_addr().map(|address| address.to_string()).unwrap_or_default();
    let client = Client { peer: peer.to_string(), local, since, last: since, ..Client::default() };
    door.house.enter(id, client);
    let mut conversation = Conversation {
        stream,
        session: Session::new(id, &door.house),
        decoder: Decoder::default(),
        input: BytesMut::new(),
        out: Vec::new(),
        hearing: None,
        until: Some(Instant::now() + PATIENCE).filter(|_| door.house.guarded()),
    };
    // Whatever ends it, there is nobody to tell.
    let _ = conversation.run(door).await;
    door.house.leave(id);
}

struct Conversation {
    stream: TcpStream,
    session: Session,
    decoder: Decoder,
    input: BytesMut,
    out: Vec<u8>,
    hearing: Option<broadcast::Receiver<Arc<News>>>,
    /// When it is closed, unless it gets on: a stranger, or a request that has begun.
    until: Option<Instant>,
}

/// The connection is over.
struct Over;

impl Conversation {
    async fn run(&mut self, door: &Door) -> Result<(), Over> {
        loop {
            let more = self.answer(door).await?;
            self.send(&door.house).await?;
            if more {
                tokio::task::yield_now().await;
                continue;
            }
            if self.input.is_empty() {
                (self.input, self.out) = (BytesMut::new(), Vec::new());
            }
            self.settle_patience();
            self.wait().await?;
        }
    }

    /// Answers what has arrived, a few at a time; whether there may be more.
    async fn answer(&mut self, door: &Door) -> Result<bool, Over> {
        for _ in 0..IN_A_ROW {
            if self.out.len() >= UNSENT {
                return Ok(true);
            }
            let request = match self.decoder.next(&mut self.input, self.session.limits()) {
                Ok(Some(request)) => request,
                Ok(None) => return Ok(false),
                Err(nonsense) => {
                    Value::error(format!("ERR {nonsense}")).encode(self.session.protocol(), &mut self.out);
                    self.send(&door.house).await?;
                    return Err(Over);
                }
            };
            let picture = Arc::clone(&door.picture.borrow());
            let context = Context { picture: &picture, house: &door.house, now: now(), unix_us: unix_us() };
            match self.session.answer(&request, &context, &mut self.out) {
                Effect::None => {}
                Effect::Close => {
                    self.send(&door.house).await?;
                    return Err(Over);
                }
                Effect::Failover(group) => {
                    let outcome = failover(door, group).await;
                    outcome.encode(self.session.protocol(), &mut self.out);
                }
            }
            // From here on nothing that is published passes it by.
            match (self.session.listens(), self.hearing.is_some()) {
                (true, false) => self.hearing = Some(door.news.subscribe()),
                (false, true) => self.hearing = None,
                _ => {}
            }
        }
        Ok(true)
    }

    /// A request that has begun must end in time; one that has not may take for ever, if the client is known.
    fn settle_patience(&mut self) {
        let amid = self.decoder.is_amid(&self.input);
        if !self.session.is_known() || amid {
            self.until.get_or_insert(Instant::now() + PATIENCE);
        } else {
            self.until = None;
        }
    }

    /// Until there is something to answer or to pass on.
    async fn wait(&mut self) -> Result<(), Over> {
        let until = self.until;
        let hearing = &mut self.hearing;
        let heard = async {
            match hearing {
                Some(hearing) => hearing.recv().await,
                None => std::future::pending().await,
            }
        };
        let late = async {
            match until {
                Some(until) => sleep_until(until).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            ready = self.stream.readable() => {
                ready.map_err(|_| Over)?;
                self.read()
            }
            news = heard => {
                // One that is too far behind would miss some: it must connect and look anew.
                let news = news.map_err(|_| Over)?;
                self.session.hear(&news, &mut self.out);
                Ok(())
            }
            () = late => Err(Over),
        }
    }

    /// What has arrived, through a buffer that only this call holds.
    fn read(&mut self) -> Result<(), Over> {
        let mut chunk = [0u8; CHUNK];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => Err(Over),
            Ok(length) => {
                self.input.extend_from_slice(&chunk[..length]);
                Ok(())
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(()),
            Err(_) => Err(Over),
        }
    }

    async fn send(&mut self, house: &House) -> Result<(), Over> {
        if self.out.is_empty() {
            return Ok(());
        }
        let now = match self.stream.try_write(&self.out) {
            Ok(written) => written,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => 0,
            Err(_) => return Err(Over),
        };
        if let Some(rest) = self.out.get(now..).filter(|rest| !rest.is_empty()) {
            let _lying = house.lie(rest.len(), UNREAD_BYTES).ok_or(Over)?;
            let sent = timeout(UNREAD, self.stream.write_all(rest)).await;
            sent.map_err(|_| Over)?.map_err(|_| Over)?;
        }
        if self.out.capacity() > 2 * UNSENT {
            self.out = Vec::new()
        } else {
            self.out.clear()
        }
        Ok(())
    }
}

async fn failover(door: &Door, group: String) -> Value {
    let (answer, outcome) = oneshot::channel();
    let asked = Failover { group: GroupName(group), answer };
    if door.asked.try_send(asked).is_err() {
        return Value::error("INPROG Failover already in progress: too many were asked for at once");
    }
    match timeout(BEGIN, outcome).await {
        Ok(Ok(Ok(()))) => Value::OK,
        Ok(Ok(Err(why))) => Value::error(why),
        _ => Value::error("ERR it did not begin in time; see `mainstay status`"),
    }
}

fn unix_us() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
}
