//! Answers that nobody reads: what the kernel keeps of them for each connection is bounded, too.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use harness::wait;
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use super::{
    memory::LIMIT,
    stage::{Stage, services},
};

/// How many connections ask for a page and do not read it.
const READERS: usize = 30;
/// What such a reader keeps itself, in bytes; the kernel makes it a little more.
const RECEIVED: u32 = 4 << 10;
/// What the kernel may keep for one connection: twice what is asked of it, and a packet of the loopback interface.
const MOST: usize = 128 << 10;
/// When an answer that does not come counts as never coming.
const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_reads_fill_few_buffers_of_the_kernel() {
    let stage = Stage::of_mesh(&services(1_000), &LIMIT).await;
    for (port, address, request) in [
        ("8080", stage.http(), "GET /debug/configz HTTP/1.1\r\nhost: localhost\r\n\r\n"),
        ("15014", stage.monitoring(), "GET /debug/configz HTTP/1.1\r\nhost: localhost\r\n\r\n"),
    ] {
        let mut readers = Vec::new();
        for number in 0..READERS {
            let from = stage.attacker(2 + u8::try_from(number % 20).unwrap());
            let mut reader = connect_to_read_little(from, address).await;
            reader.write_all(request.as_bytes()).await.unwrap();
            readers.push(reader);
            // Few pages are made at a time.
            let answered = async || {
                let waiting = unread(address).into_iter().filter(|bytes| *bytes > 0).count();
                anyhow::ensure!(waiting > number, "{waiting} answers wait, not {number}");
                Ok(())
            };
            wait::until("another answer waits", PATIENCE, answered).await.unwrap_or_else(|error| panic!("{port}: {error:#}"));
        }
        let kept = unread(address);
        let (all, most) = (kept.iter().sum::<usize>(), kept.iter().max().unwrap());
        println!("{port}: {} kB of {READERS} answers, {} kB at most of one", all >> 10, most >> 10);
        assert!(*most <= MOST, "{port}: the kernel keeps {most} bytes for one connection");
        stage.good().ready().await.unwrap();
    }
}

async fn connect_to_read_little(from: IpAddr, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(RECEIVED).unwrap();
    socket.bind(SocketAddr::new(from, 0)).unwrap();
    socket.connect(to).await.unwrap()
}

/// Returns how many bytes the kernel keeps for each connection of a port: what was sent, and its peer has not taken.
fn unread(address: SocketAddr) -> Vec<usize> {
    let IpAddr::V4(host) = address.ip() else { panic!("{address}") };
    // As the kernel writes it: in the order of this machine.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(host.octets()), address.port());
    let table = fs::read_to_string("/proc/net/tcp").unwrap();
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    let queues = rows.filter(|row| row[1] == local && row[3] == "01").map(|row| row[4].split_once(':').unwrap().0.to_owned());
    queues.map(|queue| usize::from_str_radix(&queue, 16).unwrap()).collect()
}
