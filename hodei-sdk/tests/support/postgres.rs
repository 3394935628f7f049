//! A PostgreSQL server for the tests of one program: the one at `HODEI_TEST_POSTGRES`, or a new one, started from the
//! installed binaries. A new one stops with the program, even if that crashes.
#![allow(dead_code, reason = "no test uses all of it")]

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};

/// A server.
pub(crate) struct Server {
    /// The URL without the name of a database.
    base: String,
    /// The shell of the server: it takes commands, and stops the server when its input closes, as at the program's end.
    shell: Option<Mutex<(ChildStdin, Lines<BufReader<ChildStdout>>)>>,
}

/// Returns the shared server. If there is none, returns `None`, or fails if `HODEI_TEST_REQUIRE` names `postgres`.
pub(crate) fn server() -> Option<&'static Server> {
    static SERVER: OnceLock<Option<Server>> = OnceLock::new();
    let server = SERVER.get_or_init(|| match std::env::var("HODEI_TEST_POSTGRES") {
        Ok(url) => Some(Server { base: url.trim_end_matches('/').to_owned(), shell: None }),
        Err(_) => binaries().map(|binaries| start(&binaries)),
    });
    if server.is_none() {
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        assert!(!required.split(',').any(|service| service == "postgres"), "PostgreSQL is not installed");
        eprintln!("skipped: PostgreSQL is not installed, and HODEI_TEST_POSTGRES names no server");
    }
    server.as_ref()
}

/// Starts a server for one test, which may stop it. `None` as with [`server`].
pub(crate) fn own() -> Option<Server> {
    server()?;
    binaries().map(|binaries| start(&binaries))
}

/// A PgBouncer in transaction mode, killed when it is dropped.
pub(crate) struct Bouncer {
    child: Child,
    port: u16,
    _dir: tempfile::TempDir,
}

impl Bouncer {
    /// Starts it in front of a server; `None` if it is not installed.
    pub(crate) fn start(server: &Server) -> Option<Self> {
        let program =
            ["/usr/sbin/pgbouncer", "/usr/bin/pgbouncer"].into_iter().find(|path| Path::new(path).is_file());
        let required = std::env::var("HODEI_TEST_REQUIRE").unwrap_or_default();
        let Some(program) = program else {
            assert!(!required.split(',').any(|service| service == "pgbouncer"), "PgBouncer is not installed");
            eprintln!("skipped: PgBouncer is not installed");
            return None;
        };
        let port = free_port();
        let dir = tempfile::tempdir().unwrap();
        let host = server.base.rsplit('@').next().unwrap();
        let (host, behind) = host.split_once(':').unwrap();
        let ini = format!(
            "[databases]\n* = host={host} port={behind} user=hodei\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = transaction\n\
             default_pool_size = 5\nmax_client_conn = 500\n"
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), ini).unwrap();
        let mut command = Command::new("setpriv");
        command.args(["--reuid", "65534", "--regid", "65534", "--clear-groups", program]);
        if !rustix::process::geteuid().is_root() {
            command = Command::new(program);
        }
        std::fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let child = command.arg("-q").arg(dir.path().join("pgbouncer.ini")).spawn().unwrap();
        for _ in 0..200 {
            if std::net::TcpStream::connect(("127.0.0.1", port)).is_ok() {
                break;
            }
            std::thread::sleep(std::time::Duration::from_millis(25));
        }
        Some(Self { child, port, _dir: dir })
    }

    /// Returns the URL of a database through the pooler.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("postgres://hodei@127.0.0.1:{}/{database}?pgbouncer=true", self.port)
    }
}

impl Drop for Bouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

impl Server {
    /// Returns the URL of a database.
    pub(crate) fn url(&self, database: &str) -> String {
        format!("{}/{database}", self.base)
    }

    /// Stops the server in mode `fast` or `immediate` of `pg_ctl`, and starts it again after `away` seconds. With
    /// `standby`, restarts it as a read-only standby, and promotes it after them. Only for servers of [`own`].
    pub(crate) fn restart(&self, how: &str, away: u32) {
        let mut shell = self.shell.as_ref().unwrap().lock().unwrap();
        writeln!(shell.0, "{how} {away}").unwrap();
        assert_eq!(shell.1.next().unwrap().unwrap(), "ready");
    }

    /// Creates an empty database and returns its URL.
    pub(crate) async fn database(&self) -> String {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}_{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        self.run("postgres", &format!("CREATE DATABASE {name}")).await;
        self.url(&name)
    }

    /// Runs a statement.
    pub(crate) async fn run(&self, database: &str, statement: &str) {
        use sqlx::{AssertSqlSafe, Connection, Executor};
        let mut connection = sqlx::PgConnection::connect(&self.url(database)).await.unwrap();
        connection.execute(sqlx::raw_sql(AssertSqlSafe(statement.to_owned()))).await.unwrap();
        connection.close().await.unwrap();
    }
}

/// Returns the path of a program of the installed PostgreSQL.
pub(crate) fn program(name: &str) -> PathBuf {
    binaries().map_or_else(|| name.into(), |binaries| binaries.join(name))
}

fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.retain(|path| path.join("initdb").is_file());
    found.sort();
    found.pop()
}

/// Starts a server, as another user if this one is root, which PostgreSQL refuses.
fn start(binaries: &Path) -> Server {
    let line = "
        set -e
        as=
        if [ \"$(id -u)\" = 0 ]; then
            as='setpriv --reuid 65534 --regid 65534 --clear-groups'
            chown 65534:65534 \"$1\"
        fi
        cd \"$1\"
        $as \"$0/initdb\" -D data -U hodei -A trust -E UTF8 --no-locale --no-sync >init.log 2>&1 || { cat init.log; exit 1; }
        start() {
            $as \"$0/postgres\" -D data -p \"$1\" -c listen_addresses=127.0.0.1 -c unix_socket_directories= \
                -c fsync=off -c max_connections=200 -c shared_buffers=64MB >>server.log 2>&1 &
            server=$!
            for _ in $(seq 200); do
                \"$0/pg_isready\" -q -h 127.0.0.1 -p \"$1\" && break
                sleep 0.05
            done
            \"$0/pg_isready\" -q -h 127.0.0.1 -p \"$1\" && echo ready || cat server.log
        }
        start \"$2\"
        while read how away; do
            case $how in immediate) kill -QUIT $server;; *) kill -INT $server;; esac
            wait $server || true
            if [ $how = standby ]; then
                $as touch data/standby.signal
                start \"$2\" >/dev/null
                sleep \"$away\"
                $as \"$0/pg_ctl\" -D data promote >>server.log 2>&1 && echo ready || cat server.log
            else
                sleep \"$away\"
                start \"$2\"
            fi
        done
        kill -INT $server && wait $server || true
        cd / && rm -rf \"$1\"";
    let port = free_port();
    let dir = tempfile::tempdir().unwrap().keep();
    let mut shell = Command::new("/bin/sh");
    shell.args(["-c", line]).arg(binaries).arg(&dir).arg(port.to_string());
    let mut child = shell.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let ready = lines.next().unwrap().unwrap();
    assert_eq!(ready, "ready", "{:?}", lines.by_ref().map_while(Result::ok).collect::<Vec<_>>());
    let stdin = child.stdin.take().unwrap();
    std::thread::spawn(move || child.wait());
    Server { base: format!("postgres://hodei@127.0.0.1:{port}"), shell: Some(Mutex::new((stdin, lines))) }
}
