//! A throw-away S3 server, `moto`, with one empty bucket. It keeps its objects in memory: killed, it has lost them.

use super::service::Service;
use super::version::python_with;

pub const BUCKET: &str = "archives";

pub struct S3Server {
    service: Service,
}

impl S3Server {
    pub fn start() -> S3Server {
        let server = S3Server { service: Service::new("s3") };
        server.start_again();
        server
    }

    pub fn port(&self) -> u16 {
        self.service.port()
    }

    pub fn location(&self) -> String {
        S3Server::location_at(self.port(), BUCKET)
    }

    /// Through a proxy, or in another bucket.
    pub fn location_at(port: u16, bucket: &str) -> String {
        format!("s3://{bucket}/some/archive?endpoint=http://127.0.0.1:{port}&region=us-east-1")
    }

    pub fn kill(&self) {
        self.service.kill();
    }

    /// With an empty bucket.
    pub fn start_again(&self) {
        let mut command = python_with("moto");
        command.args(["-m", "moto.server", "-H", "127.0.0.1", "-p", &self.port().to_string()]);
        self.service.start(command);
        self.create_bucket();
    }

    pub fn log(&self) -> String {
        self.service.log()
    }

    fn create_bucket(&self) {
        use std::io::{Read as _, Write as _};
        let mut stream =
            std::net::TcpStream::connect(("127.0.0.1", self.port())).expect("the server listens");
        let request = format!(
            "PUT /{BUCKET} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 0\r\nConnection: close\r\n\
             Authorization: AWS4-HMAC-SHA256 Credential=test/20260101/us-east-1/s3/aws4_request, \
             SignedHeaders=host, Signature=test\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).expect("the server reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("the server answers");
        assert!(answer.starts_with("HTTP/1.1 200"), "the bucket cannot be created: {answer}\n{}", self.log());
    }
}
