//! A TCP proxy before a cluster, for networks that break: it delays, freezes, cuts, and ends in mid-frame.
//!
//! It runs in a thread of its own and ends when dropped. Each command binds all connections of the moment; `cut`
//! and `truncate_after` bind later ones too, until `heal`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use super::ground;

const BUFFER_BYTES: usize = 64 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Forward,
    /// Connections end with a reset; new ones end at once.
    Cut,
    /// Connections stay and nothing passes: what a firewall does that forgot them.
    Frozen,
    /// The server's half has ended, the client's goes on.
    HalfClosed,
    Ended,
}

/// What the connections share with the commands.
struct State {
    mode: watch::Sender<Mode>,
    delay_ms: AtomicU64,
    /// How many bytes from the server may still pass; `u64::MAX` is no limit.
    allowance: AtomicU64,
    open: AtomicUsize,
    forwarded: AtomicU64,
}

pub struct Proxy {
    port: u16,
    state: Arc<State>,
    thread: Option<JoinHandle<()>>,
}

impl Proxy {
    /// A proxy on a free loopback port before a loopback port.
    pub fn start(upstream_port: u16) -> Proxy {
        let port = ground::free_port();
        let listener = std::net::TcpListener::bind(("127.0.0.1", port)).expect("a free port can be bound");
        listener.set_nonblocking(true).expect("a listener can be non-blocking");
        let state = Arc::new(State {
            mode: watch::Sender::new(Mode::Forward),
            delay_ms: AtomicU64::new(0),
            allowance: AtomicU64::new(u64::MAX),
            open: AtomicUsize::new(0),
            forwarded: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        let thread = std::thread::spawn(move || serve(listener, upstream_port, &shared));
        Proxy { port, state, thread: Some(thread) }
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// A libpq URI through the proxy.
    pub fn conninfo(&self, database: &str) -> String {
        super::cluster::conninfo("postgres", database, self.port)
    }

    /// How many connections are open now.
    pub fn connections(&self) -> usize {
        self.state.open.load(Ordering::SeqCst)
    }

    /// How many bytes have come from the server and gone to clients since the start.
    pub fn forwarded_bytes(&self) -> u64 {
        self.state.forwarded.load(Ordering::SeqCst)
    }

    /// Drops all connections and refuses new ones, until `heal`. Returns when all have ended.
    pub fn cut(&self) {
        self.enter(Mode::Cut);
        let ended = super::wait_for(|| (self.connections() == 0).then_some(()));
        assert!(ended.is_some(), "{} connections outlive a cut", self.connections());
    }

    /// Ends every trouble: what is frozen flows again, what was cut can connect again.
    pub fn heal(&self) {
        self.state.delay_ms.store(0, Ordering::SeqCst);
        self.state.allowance.store(u64::MAX, Ordering::SeqCst);
        self.enter(Mode::Forward);
    }

    /// Each piece of data waits this long, in both directions.
    pub fn delay(&self, milliseconds: u64) {
        self.state.delay_ms.store(milliseconds, Ordering::SeqCst);
    }

    /// The server's data ends (FIN to the client); what the client sends still arrives.
    pub fn half_close(&self) {
        self.enter(Mode::HalfClosed);
    }

    /// Nothing passes, nothing ends, until `heal` or `cut`.
    pub fn freeze(&self) {
        self.enter(Mode::Frozen);
    }

    /// Lets so many more bytes from the server pass, of all connections together, then cuts, in mid-frame.
    pub fn truncate_after(&self, bytes: u64) {
        self.state.allowance.store(bytes, Ordering::SeqCst);
    }

    fn enter(&self, mode: Mode) {
        self.state.mode.send_replace(mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.enter(Mode::Ended);
        if let Some(thread) = self.thread.take() {
            // Its panic has been printed; a second one here would end the process.
            drop(thread.join());
        }
    }
}

fn serve(listener: std::net::TcpListener, upstream_port: u16, state: &Arc<State>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let listener = TcpListener::from_std(listener).expect("the listener is non-blocking");
        let mut mode = state.mode.subscribe();
        loop {
            tokio::select! {
                biased;
                _ = mode.wait_for(|mode| *mode == Mode::Ended) => return,
                accepted = listener.accept() => match accepted {
                    Ok((client, _)) => drop(tokio::spawn(connection(client, upstream_port, Arc::clone(state)))),
                    Err(error) => panic!("the proxy cannot accept: {error}"),
                },
            }
        }
    });
}

/// Counts an open connection for as long as it lives.
struct Open(Arc<State>);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.open.fetch_sub(1, Ordering::SeqCst);
    }
}

async fn connection(client: TcpStream, upstream_port: u16, state: Arc<State>) {
    state.open.fetch_add(1, Ordering::SeqCst);
    let _open = Open(Arc::clone(&state));
    // With linger zero, closing sends a reset: peers see a broken connection, not an orderly end.
    let reset = |stream: &TcpStream| stream.set_zero_linger();
    if *state.mode.borrow() == Mode::Cut {
        drop(reset(&client));
        return;
    }
    let Ok(server) = TcpStream::connect(("127.0.0.1", upstream_port)).await else { return };
    drop((client.set_nodelay(true), server.set_nodelay(true), reset(&client), reset(&server)));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let mut mode = state.mode.subscribe();
    tokio::select! {
        _ = mode.wait_for(|mode| matches!(mode, Mode::Cut | Mode::Ended)) => {}
        _ = async { tokio::join!(requests(from_client, to_server, &state), answers(from_server, to_client, &state)) } => {}
    }
}

async fn requests(mut client: OwnedReadHalf, mut server: OwnedWriteHalf, state: &State) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut mode = state.mode.subscribe();
    loop {
        let count = client.read(&mut buffer).await?;
        pass(&mut mode, state).await;
        if count == 0 {
            return server.shutdown().await;
        }
        server.write_all(&buffer[..count]).await?;
    }
}

async fn answers(mut server: OwnedReadHalf, mut client: OwnedWriteHalf, state: &State) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut mode = state.mode.subscribe();
    loop {
        let count = tokio::select! {
            _ = mode.wait_for(|mode| *mode == Mode::HalfClosed) => 0,
            count = server.read(&mut buffer) => count?,
        };
        pass(&mut mode, state).await;
        if count == 0 {
            return client.shutdown().await;
        }
        let allowed = take_allowance(state, count);
        client.write_all(&buffer[..allowed]).await?;
        state.forwarded.fetch_add(allowed as u64, Ordering::SeqCst);
        if allowed < count {
            // Cut before the client can know: once it sees the end, its test may heal.
            state.mode.send_replace(Mode::Cut);
            client.shutdown().await?;
        }
    }
}

/// Waits out the delay and the frost.
async fn pass(mode: &mut watch::Receiver<Mode>, state: &State) {
    let delay = state.delay_ms.load(Ordering::SeqCst);
    if delay > 0 {
        tokio::time::sleep(Duration::from_millis(delay)).await;
    }
    drop(mode.wait_for(|mode| *mode != Mode::Frozen).await);
}

fn take_allowance(state: &State, wanted: usize) -> usize {
    let left = state.allowance.load(Ordering::SeqCst);
    if left == u64::MAX {
        return wanted;
    }
    let allowed = usize::try_from(left).map_or(wanted, |left| left.min(wanted));
    state.allowance.store(left - allowed as u64, Ordering::SeqCst);
    allowed
}
