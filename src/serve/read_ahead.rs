//! A connection of which something was read already.

use std::{
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A connection whose first bytes were read; whoever reads from it gets them first.
#[derive(Debug)]
pub(super) struct ReadAhead {
    /// What is left of them.
    said: Bytes,
    stream: TcpStream,
}

impl ReadAhead {
    /// Puts back what was read from a connection.
    pub(super) fn new(said: Vec<u8>, stream: TcpStream) -> Self {
        Self { said: said.into(), stream }
    }

    /// Returns our own address, if the kernel tells it.
    pub(super) fn local_addr(&self) -> Option<SocketAddr> {
        self.stream.local_addr().ok()
    }
}

impl AsyncRead for ReadAhead {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.said.is_empty() {
            return Pin::new(&mut self.stream).poll_read(context, buffer);
        }
        let length = buffer.remaining().min(self.said.len());
        buffer.put_slice(&self.said.split_to(length));
        if self.said.is_empty() {
            // What is empty may still hold all that it was a part of.
            self.said = Bytes::new();
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for ReadAhead {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, context: &mut Context<'_>, pieces: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
    };

    use super::*;

    #[tokio::test]
    async fn what_was_read_comes_first() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut peer = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let mut stream = ReadAhead::new(b"first".to_vec(), listener.accept().await.unwrap().0);
        peer.write_all(b" then").await.unwrap();
        peer.shutdown().await.unwrap();
        let mut piece = [0; 2];
        stream.read_exact(&mut piece).await.unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).await.unwrap();
        assert_eq!((&piece, rest.as_str()), (b"fi", "rst then"));
        stream.write_all(b"answer").await.unwrap();
        stream.shutdown().await.unwrap();
        rest.clear();
        peer.read_to_string(&mut rest).await.unwrap();
        assert_eq!(rest, "answer");
    }
}
