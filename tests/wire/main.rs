//! Peer connections over real sockets on loopback: who is let in, what happens to requests when peers stall, die and
//! come back, and how soon that is told.

mod admission;
mod dead_host;
mod traffic;

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bytes::Bytes;
use mainstay::wire::*;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
    time::{sleep, timeout},
};

// Generous, since a debug build seals a few MB/s; tests of these bounds set their own.
const TIMING: Timing = Timing {
    handshake: Duration::from_secs(5),
    stall: Duration::from_secs(10),
};
const LONG: Duration = Duration::from_secs(60);
const A: [u8; 32] = [1; 32];
const B: [u8; 32] = [2; 32];

fn keys(current: [u8; 32], retiring: Option<[u8; 32]>) -> Keys {
    Keys { current, retiring }
}

fn local(node: &str) -> Local {
    Local::new(Hello::new("edge", 1, node, 1), keys(A, None))
}

fn admission(local: &Local) -> Arc<dyn Admission> {
    let local = local.clone();
    Arc::new(move |theirs: &Hello| check_cluster(&local.hello(), theirs))
}

/// Kind 1 echoes, 2 sleeps for the milliseconds in the body, 3 never answers, 4 gives as many bytes as asked for.
#[derive(Default)]
struct Echo {
    working: AtomicUsize,
    most: AtomicUsize,
    heard: Mutex<Vec<(u8, usize)>>,
}

impl Handler for Echo {
    async fn request(&self, peer: &Arc<Hello>, kind: u8, body: Bytes) -> Result<Bytes, Fault> {
        assert_eq!(peer.node, "n1");
        let now = self.working.fetch_add(1, SeqCst) + 1;
        self.most.fetch_max(now, SeqCst);
        let number = || {
            body[..]
                .try_into()
                .map(u32::from_be_bytes)
                .map_err(|_| Fault::BadRequest)
        };
        let answer = match kind {
            1 => Ok(body),
            2 => match number() {
                Ok(ms) => {
                    sleep(Duration::from_millis(ms.into())).await;
                    Ok(body)
                }
                Err(fault) => Err(fault),
            },
            3 => std::future::pending().await,
            4 => number().map(|n| Bytes::from(vec![0; n as usize])),
            _ => Err(Fault::UnknownKind),
        };
        self.working.fetch_sub(1, SeqCst);
        answer
    }

    fn one_way(&self, _: &Arc<Hello>, kind: u8, body: Bytes) {
        self.heard.lock().unwrap().push((kind, body.len()));
    }
}

/// An agent's serving side; dropped, its listener and connections are gone, as after a crash.
struct Server {
    listener: Listener,
    handler: Arc<Echo>,
    _conns: Arc<Mutex<JoinSet<WireError>>>,
    failures: mpsc::UnboundedReceiver<WireError>,
}

async fn server_with(bind: &str, local: Local, options: ListenOptions) -> Server {
    let (conns, handler) = (
        Arc::new(Mutex::new(JoinSet::new())),
        Arc::new(Echo::default()),
    );
    let (tx, failures) = mpsc::unbounded_channel();
    let (into, with) = (conns.clone(), handler.clone());
    let admission = admission(&local);
    let listener = listen(bind, local, admission, options, move |_, conn| match conn {
        Ok(conn) => {
            into.lock()
                .unwrap()
                .spawn(serve(conn, with.clone(), ServeOptions { max_requests: 8 }));
        }
        Err(e) => drop(tx.send(e)),
    })
    .await
    .unwrap();
    Server {
        listener,
        handler,
        _conns: conns,
        failures,
    }
}

async fn server() -> Server {
    server_with("127.0.0.1:0", local("n2"), ListenOptions::new(TIMING)).await
}

impl Server {
    fn addr(&self) -> SocketAddr {
        self.listener.local_addr()
    }

    async fn failure(&mut self) -> WireError {
        timeout(LONG, self.failures.recv()).await.unwrap().unwrap()
    }
}

fn client(addr: SocketAddr) -> RpcClient {
    let local = local("n1");
    RpcClient::spawn(
        addr.to_string(),
        Lane::Rpc,
        local.clone(),
        admission(&local),
        ClientOptions::new(TIMING),
    )
}

async fn up(link: &mut watch::Receiver<LinkState>) {
    timeout(LONG, link.wait_for(LinkState::is_up))
        .await
        .expect("link comes up")
        .unwrap();
}

async fn down(link: &mut watch::Receiver<LinkState>) -> Arc<WireError> {
    let state = timeout(LONG, link.wait_for(|s| !s.is_up()))
        .await
        .expect("link goes down")
        .unwrap();
    match &*state {
        LinkState::Down { reason } => reason.clone(),
        LinkState::Up { .. } => unreachable!("waited for down"),
    }
}

async fn dial_as(local: &Local, addr: SocketAddr, key: KeyChoice) -> Result<Conn, WireError> {
    dial(
        &addr.to_string(),
        Lane::Rpc,
        local,
        key,
        &*admission(local),
        TIMING,
    )
    .await
}
