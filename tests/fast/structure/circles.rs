//! Finds the circles of a graph: its strongly connected components of two nodes or more.

use std::collections::{BTreeMap, BTreeSet};

type Graph<'a> = BTreeMap<&'a str, BTreeSet<&'a str>>;

/// The nodes of each circle among `edges`.
pub(super) fn find<'a>(edges: impl Iterator<Item = &'a (String, String)>) -> Vec<BTreeSet<String>> {
    let mut graph: Graph<'a> = BTreeMap::new();
    for (from, to) in edges {
        graph.entry(from).or_default().insert(to);
        graph.entry(to).or_default();
    }
    let reach: BTreeMap<&str, BTreeSet<&str>> = graph
        .keys()
        .map(|node| (*node, reachable(&graph, node)))
        .collect();
    let mut circles: Vec<BTreeSet<String>> = vec![];
    for (node, from_here) in &reach {
        let circle: BTreeSet<String> = from_here
            .iter()
            .filter(|other| reach[*other].contains(node))
            .map(|other| (*other).to_owned())
            .collect();
        if circle.len() > 1 && !circles.contains(&circle) {
            circles.push(circle);
        }
    }
    circles
}

/// All nodes that can be reached from `start` in one step or more.
fn reachable<'a>(graph: &Graph<'a>, start: &str) -> BTreeSet<&'a str> {
    let mut seen = BTreeSet::new();
    let mut next: Vec<&str> = graph[start].iter().copied().collect();
    while let Some(node) = next.pop() {
        if seen.insert(node) {
            next.extend(&graph[node]);
        }
    }
    seen
}

#[test]
fn a_circle_is_found_with_all_its_nodes_and_nothing_else() {
    let edges = [("a", "b"), ("b", "c"), ("c", "a"), ("c", "d"), ("e", "a")];
    let edges = edges.map(|(from, to)| (from.to_owned(), to.to_owned()));
    let circle = BTreeSet::from(["a", "b", "c"].map(str::to_owned));
    assert_eq!(find(edges.iter()), [circle]);
    assert!(find(edges[3..].iter()).is_empty());
}
