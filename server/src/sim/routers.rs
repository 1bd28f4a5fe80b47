//! Routers: each is a `Dispatch`, with links to nodes that keep order and break.

use super::history::{Ask, Request};
use super::workload::op;
use super::world::{Event, MS, TIMEOUT_NS, World};
use raft_core::types::Now;
use router::backend::{Target, Work};
use router::dispatch::{Bounds, Connection, Dispatch, LinkEvent, Output, Ticket};
use shard_core::NodeId;
use shard_core::cluster_config::ClusterConfig;
use shard_core::replica::Origin;
use shard_core::slot::hash_slot;
use shard_core::wire::{ClusterView, ToNode, ToRouter};
use std::collections::BTreeMap;

/// A link of a router; its number is the origin of its requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct RouterLink {
    id: u64,
    to_node: Now,
    to_router: Now,
}

/// A router.
#[derive(Debug)]
pub(super) struct RouterHost {
    pub(super) dispatch: Dispatch,
    links: BTreeMap<NodeId, RouterLink>,
    next: u64,
    turn: u64,
}

impl RouterHost {
    pub(super) fn new(config: &ClusterConfig, seed: u64, number: u64) -> RouterHost {
        let view = ClusterView::of_config(config);
        let mut dispatch = Dispatch::new(Bounds::default(), [seed, number], view, None);
        dispatch.watch_leaders();
        RouterHost { dispatch, links: BTreeMap::new(), next: number << 32, turn: 0 }
    }

    pub(super) fn stands(&self, node: NodeId, link: u64) -> bool {
        self.links.get(&node).is_some_and(|known| known.id == link)
    }
}

impl World {
    pub(super) fn ask(&mut self, connection: u64, key: String, ask: Ask) {
        let target = Target::Slot(hash_slot(key.as_bytes()));
        let work = Work::Op(op(&key, &ask));
        let ticket = self.tickets.len() as u64;
        self.tickets.push(Some(self.history.requests.len()));
        let asked = self.now;
        self.history.requests.push(Request { connection, key, ask, asked, answer: None });
        self.asks(connection);
        self.submit(
            connection as usize % 2,
            (Connection(connection), Ticket(ticket)),
            target,
            work,
        );
    }

    pub(super) fn submit_admin(&mut self, target: Target, work: Work) {
        let ticket = self.tickets.len() as u64;
        self.tickets.push(None);
        self.submit(0, (Connection(1000), Ticket(ticket)), target, work);
    }

    fn submit(&mut self, router: usize, from: (Connection, Ticket), target: Target, work: Work) {
        self.open += 1;
        let deadline = self.now + TIMEOUT_NS;
        self.routers[router].dispatch.submit(self.now, from, target, work, deadline);
        self.poll_router(router);
    }

    pub(super) fn router_due(&mut self, router: usize, turn: u64) {
        if self.routers[router].turn == turn {
            self.poll_router(router);
        }
    }

    pub(super) fn poll_router(&mut self, number: usize) {
        let mut out = Output::default();
        let now = self.now;
        let router = &mut self.routers[number];
        router.dispatch.poll(now, &mut out);
        router.turn += 1;
        let (turn, deadline) = (router.turn, router.dispatch.deadline());
        if let Some(at) = deadline {
            self.at_time(at.max(now + 1_000), Event::RouterPoll(number, turn));
        }
        for (node, batch) in out.sends {
            self.send_node(number, node, ToNode::Requests(batch));
        }
        for node in out.ask_view {
            self.send_node(number, node, ToNode::View);
        }
        for node in out.open_links {
            let delay = self.random.between(1, 30) * MS;
            self.at(delay, Event::RouterDial(number, node));
        }
        for (ticket, answer) in out.answers {
            self.open -= 1;
            self.note(&[now, ticket.0]);
            match self.tickets[ticket.0 as usize] {
                Some(request) => {
                    let connection = self.history.requests[request].connection;
                    self.history.answer(request, now, answer);
                    self.answered(connection);
                }
                None => self.master_answers.push(answer),
            }
        }
    }

    fn send_node(&mut self, number: usize, node: NodeId, message: ToNode) {
        let (delay, now) = (self.delay(), self.now);
        let Some(link) = self.routers[number].links.get_mut(&node) else { return };
        link.to_node = link.to_node.max(now + delay);
        let (at, id) = (link.to_node, link.id);
        self.at_time(at, Event::ToNode(number, node, id, message));
    }

    /// An answer leaves for whoever asked, while the link stands.
    pub(super) fn send_router(&mut self, node: NodeId, origin: Origin, message: ToRouter) {
        let (delay, now, number) = (self.delay(), self.now, (origin.0 >> 32) as usize);
        let Some(router) = self.routers.get_mut(number) else { return };
        let Some(link) = router.links.get_mut(&node).filter(|link| link.id == origin.0) else {
            return;
        };
        link.to_router = link.to_router.max(now + delay);
        let at = link.to_router;
        self.at_time(at, Event::ToRouter(number, node, origin.0, message));
    }

    pub(super) fn heard_node(&mut self, number: usize, node: NodeId, link: u64, message: ToRouter) {
        if !self.routers[number].stands(node, link) {
            return;
        }
        let (now, dispatch) = (self.now, &mut self.routers[number].dispatch);
        match message {
            ToRouter::Replies(replies) => dispatch.on_replies(now, replies),
            ToRouter::View(view) => {
                if view.map.version > dispatch.view().map.version {
                    view.map.check().expect("a node's map makes sense");
                }
                dispatch.on_view(now, node, &view);
            }
            ToRouter::Pong => {}
        }
        self.poll_router(number);
    }

    /// Every router that a node has a link to hears what it knows.
    pub(super) fn tell_view(&mut self, node: NodeId) {
        let Some(view) = self.hosts[&node].node.as_ref().map(shard_core::node::Node::view) else {
            return;
        };
        for number in 0..self.routers.len() {
            if let Some(link) = self.routers[number].links.get(&node).copied() {
                let message = ToRouter::View(Box::new(view.clone()));
                self.send_router(node, Origin(link.id), message);
            }
        }
    }

    pub(super) fn router_dial(&mut self, number: usize, node: NodeId) {
        let Some(view) = self.hosts[&node].node.as_ref().map(shard_core::node::Node::view) else {
            return self.router_link(number, node, LinkEvent::Down);
        };
        let now = self.now;
        let router = &mut self.routers[number];
        router.next += 1;
        let id = router.next;
        router.links.insert(node, RouterLink { id, to_node: now, to_router: now });
        self.router_link(number, node, LinkEvent::Up);
        self.send_router(node, Origin(id), ToRouter::View(Box::new(view)));
    }

    /// What is on its way to the node arrives nevertheless; no answer comes back.
    pub(super) fn break_router_link(&mut self, number: usize, node: NodeId) {
        if self.routers[number].links.remove(&node).is_some() {
            self.router_link(number, node, LinkEvent::Down);
        }
    }
}
