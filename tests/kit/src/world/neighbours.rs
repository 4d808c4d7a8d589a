//! Homeservers of several domains that know each other: a world each, with TLS by one authority, on addresses of their
//! own.

use std::{
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::{Index, IndexMut},
    time::Instant,
};

use postern_protocol::{
    ds::MessageAccepted,
    name::Domain,
    qs::{Dequeued, QueuePayload},
};

use crate::{Authority, Chance, Commit, FaultProxy, Group, Member, PATIENCE, Private, Signpost, World};

/// The worlds of `a.example`, `b.example`, …; dropping it stops everything.
pub struct Neighbours {
    pub worlds: Vec<World>,
    /// The lines from each domain to each, if they can be bad.
    lines: Vec<Vec<FaultProxy>>,
    /// The web servers at the domains, if the homeservers are elsewhere.
    signposts: Vec<Signpost>,
    /// The authority of all certificates.
    pub authority: Authority,
    private: Private,
}

/// Neighbours to be.
#[must_use]
pub struct NeighboursBuilder {
    domains: usize,
    processes: usize,
    tokens: usize,
    pushing: bool,
    bad_lines: bool,
    other_hosts: bool,
    /// Hosts that are none of theirs.
    hosts: Vec<(String, SocketAddr)>,
    settings: Vec<(String, String)>,
}

impl NeighboursBuilder {
    /// Makes so many domains, two if this is not said.
    pub fn domains(self, domains: usize) -> Self {
        Self { domains, ..self }
    }

    /// Starts so many servers for each domain, one if this is not said. Others reach the first one, over bad lines each in
    /// turn.
    pub fn processes(self, processes: usize) -> Self {
        Self { processes, ..self }
    }

    /// Has so many tokens of each domain at hand.
    pub fn tokens(self, tokens: usize) -> Self {
        Self { tokens, ..self }
    }

    /// Lets the servers reach each other over [`Neighbours::line`].
    pub fn bad_lines(self) -> Self {
        Self { bad_lines: true, ..self }
    }

    /// Has the servers on other hosts than their domains, `chat.a.example` for `a.example`, whose certificates are not for the
    /// domains. At these, [`Neighbours::signpost`] hands out the descriptions.
    pub fn on_other_hosts(self) -> Self {
        Self { other_hosts: true, ..self }
    }

    /// Lets the servers find a host that none of them is.
    pub fn host(mut self, name: &str, address: SocketAddr) -> Self {
        self.hosts.push((name.to_owned(), address));
        self
    }

    /// Lets the servers send pushes, also to this machine.
    pub fn pushing(self) -> Self {
        Self { pushing: true, ..self }
    }

    /// Gives all servers a setting, as an environment variable.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    pub async fn start(self) -> Neighbours {
        let (authority, private) = (Authority::new(), Private::default());
        let net = rand::random::<u8>() % 254 + 1;
        let addresses: Vec<Vec<SocketAddr>> = (1..)
            .take(self.domains)
            .map(|domain| free_addresses(Ipv4Addr::new(127, net, domain, 1), self.processes))
            .collect();
        let host = |number: u8| match self.other_hosts {
            true => format!("chat.{}", domain(number)),
            false => domain(number),
        };
        let signpost = |(number, servers): (u8, &Vec<SocketAddr>)| {
            let files = authority.certify(&[&domain(number)]);
            Signpost::start(
                Ipv4Addr::new(127, net, number + 1, 3).into(),
                &files,
                servers[0],
                &authority.pem(),
            )
        };
        let signposts: Vec<_> = match self.other_hosts {
            true => (0..).zip(&addresses).map(signpost).collect(),
            false => Vec::new(),
        };
        let line = |from: u8, to: u8, servers: &[SocketAddr]| {
            let files = authority.certify(&[&host(to)]);
            FaultProxy::start(Ipv4Addr::new(127, net, from + 1, 2).into(), servers.to_vec(), &files)
        };
        let lines_from =
            |from| (0..).zip(&addresses).map(|(to, servers)| line(from, to, servers)).collect::<Vec<_>>();
        let lines: Vec<_> = match self.bad_lines {
            true => (0..).take(self.domains).map(lines_from).collect(),
            false => Vec::new(),
        };
        let hosts = |from: usize| {
            let address = |to: usize| lines.get(from).map_or(addresses[to][0], |lines| lines[to].address());
            let servers = (0..).zip(0..self.domains).map(|(number, to)| (host(number), address(to)));
            let described =
                (0..).zip(&signposts).map(|(number, signpost)| (domain(number), signpost.address()));
            let others = self.hosts.iter().cloned();
            let hosts =
                servers.chain(described).chain(others).map(|(name, address)| format!("{name}={address}"));
            hosts.collect::<Vec<_>>().join(",")
        };
        let roots = authority.file().display().to_string();
        let starting = (0..).zip(&addresses).enumerate().map(|(from, (number, addresses))| {
            let mut world =
                World::builder().domain(&domain(number)).servers(self.processes).listen(addresses.clone());
            if self.other_hosts {
                world = world.on_host(&host(number));
            }
            let mut world = world
                .tls(&authority)
                .with_private(private.clone())
                .tokens(self.tokens)
                .setting("POSTERN_FEDERATION_HOSTS", &hosts(from))
                .setting("POSTERN_FEDERATION_TRUSTED_ROOTS", &roots);
            if self.pushing {
                world = world.pushing();
            }
            self.settings.iter().fold(world, |world, (name, value)| world.setting(name, value)).start()
        });
        let mut worlds = Vec::new();
        for world in starting {
            worlds.push(world.await);
        }
        for world in &worlds {
            let sql = "SELECT operator.set_homeserver_allowance(2000000000)";
            world.admin.execute(sql, &[]).await.expect("the operator may");
        }
        Neighbours { worlds, lines, signposts, authority, private }
    }
}

impl Neighbours {
    pub fn builder() -> NeighboursBuilder {
        NeighboursBuilder {
            domains: 2,
            processes: 1,
            tokens: 0,
            pushing: false,
            bad_lines: false,
            other_hosts: false,
            hosts: Vec::new(),
            settings: Vec::new(),
        }
    }

    /// The line from one domain to another, of [`NeighboursBuilder::bad_lines`].
    pub fn line(&self, from: usize, to: usize) -> &FaultProxy {
        &self.lines[from][to]
    }

    /// The web server at a domain whose homeserver is elsewhere, of [`NeighboursBuilder::on_other_hosts`].
    pub fn signpost(&self, domain: usize) -> &Signpost {
        &self.signposts[domain]
    }

    /// The weather changes by chance between all of them.
    pub fn storm(&self, chance: &Chance) {
        let lines = self.lines.iter().flatten();
        for (number, line) in (0..).zip(lines) {
            line.storm(chance.of(1_000_000 + number));
        }
    }

    /// The weather is fair everywhere. Returns how many connections were struck since the last time.
    pub fn calm(&self) -> usize {
        self.lines.iter().flatten().map(FaultProxy::calm).sum()
    }

    /// The connections that were struck since the weather was fair for the last time.
    pub fn struck(&self) -> usize {
        self.lines.iter().flatten().map(FaultProxy::struck).sum()
    }

    /// The world of a domain.
    pub fn of(&self, domain: &Domain) -> &World {
        self.worlds.iter().find(|world| world.domain() == domain).expect("it is a neighbour")
    }

    /// The admin of a group adds somebody, of any of the domains, who joins by the Welcome in its queue.
    pub async fn add(&self, group: &mut Group, home: usize, mut joiner: Member) -> MessageAccepted {
        let ds = self.of(&group.domain);
        let (_, call) = group.make(0, Commit { add: vec![joiner.party.key_package()], ..Default::default() });
        let accepted: MessageAccepted = ds.pay(&call).await.decode();
        assert_eq!(accepted.undelivered, 0);
        group.party(0).merge();
        let mut received = self.await_payloads(home, &mut joiner).await.into_iter();
        let Some(QueuePayload::Welcome(welcome)) = received.next() else { panic!("no Welcome") };
        joiner.party.join(&welcome, &ds.welcome_tree(group, accepted.epoch, &joiner.party).await);
        for payload in received {
            let QueuePayload::Message(message) = payload else { panic!("{payload:?}") };
            joiner.party.receive(&message);
        }
        group.members.push(joiner);
        accepted
    }

    /// The payloads in the queue of a member of this domain, once there are some. A look costs a token, so it waits there.
    pub async fn await_payloads(&self, home: usize, member: &mut Member) -> Vec<QueuePayload> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let call = member.mailbox.waiting(30);
            let dequeued: Dequeued = self.worlds[home].pay(&call).await.decode();
            let received = member.mailbox.open(&dequeued);
            if !received.is_empty() {
                return received;
            }
            assert!(Instant::now() < deadline, "nothing comes to {}", self.worlds[home].domain());
        }
    }

    /// The texts that no log may have, of all domains.
    pub fn private(&self) -> &Private {
        &self.private
    }

    /// Nothing panicked or failed, and no log of any domain knows whom it was about (PRIV-4).
    pub fn close(self) {
        self.worlds.into_iter().for_each(World::close);
    }
}

impl Index<usize> for Neighbours {
    type Output = World;
    fn index(&self, number: usize) -> &World {
        &self.worlds[number]
    }
}

impl IndexMut<usize> for Neighbours {
    fn index_mut(&mut self, number: usize) -> &mut World {
        &mut self.worlds[number]
    }
}

/// `a.example` for 0, and so on.
fn domain(number: u8) -> String {
    format!("{}.example", char::from(b'a' + number))
}

/// Addresses of this host with ports that nobody has.
fn free_addresses(host: Ipv4Addr, number: usize) -> Vec<SocketAddr> {
    let bind = |_| TcpListener::bind((host, 0)).expect("a port is free");
    let listeners: Vec<_> = (0..number).map(bind).collect();
    listeners.iter().map(|listener| listener.local_addr().expect("it has an address")).collect()
}
