//! A page as a browser's parser reads it, with what the parser complains of.

use std::collections::BTreeMap;

use html5ever::parse_document;
use html5ever::tendril::TendrilSink;
use markup5ever_rcdom::{Handle, NodeData, RcDom};

#[derive(Debug, Default)]
pub struct Element {
    pub name: String,
    pub attributes: BTreeMap<String, String>,
    pub children: Vec<Node>,
}

#[derive(Debug)]
pub enum Node {
    Element(Element),
    Text(String),
}

pub struct Document {
    pub root: Element,
    pub errors: Vec<String>,
}

pub fn parse(html: &str) -> Document {
    let dom = parse_document(RcDom::default(), html5ever::ParseOpts::default()).one(html);
    let errors = dom.errors.borrow().iter().map(ToString::to_string).collect();
    let children = dom.document.children.borrow().iter().filter_map(node).collect();
    Document { root: Element { children, ..Element::default() }, errors }
}

fn node(handle: &Handle) -> Option<Node> {
    match &handle.data {
        NodeData::Text { contents } => Some(Node::Text(contents.borrow().to_string())),
        NodeData::Element { name, attrs, .. } => Some(Node::Element(Element {
            name: name.local.to_string(),
            attributes: attrs
                .borrow()
                .iter()
                .map(|one| (one.name.local.to_string(), one.value.to_string()))
                .collect(),
            children: handle.children.borrow().iter().filter_map(node).collect(),
        })),
        _ => None,
    }
}

impl Element {
    pub fn get(&self, attribute: &str) -> Option<&str> {
        self.attributes.get(attribute).map(String::as_str)
    }

    pub fn has(&self, attribute: &str) -> bool {
        self.attributes.contains_key(attribute)
    }

    pub fn has_class(&self, class: &str) -> bool {
        self.get("class").is_some_and(|classes| classes.split_whitespace().any(|one| one == class))
    }

    pub fn elements(&self) -> impl Iterator<Item = &Element> {
        self.children.iter().filter_map(|child| match child {
            Node::Element(element) => Some(element),
            Node::Text(_) => None,
        })
    }

    /// All below it, in the order of the page.
    pub fn all(&self) -> Vec<&Element> {
        let mut found = Vec::new();
        for child in self.elements() {
            found.push(child);
            found.extend(child.all());
        }
        found
    }

    pub fn named<'a>(&'a self, name: &str) -> Vec<&'a Element> {
        self.all().into_iter().filter(|element| element.name == name).collect()
    }

    pub fn with_id(&self, id: &str) -> Option<&Element> {
        self.all().into_iter().find(|element| element.get("id") == Some(id))
    }

    /// What is read of it, spaces made one.
    pub fn text(&self) -> String {
        let mut text = String::new();
        self.gather(&mut text);
        text.split_whitespace().collect::<Vec<_>>().join(" ")
    }

    fn gather(&self, text: &mut String) {
        for child in &self.children {
            match child {
                Node::Text(words) => text.push_str(words),
                Node::Element(element) => element.gather(text),
            }
        }
    }
}
