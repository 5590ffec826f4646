use std::collections::BTreeMap;

use super::*;
use crate::node;

fn annotations(origin: Origin, pairs: &[(&str, &str)]) -> Annotations {
    let owned = pairs.iter().map(|&(key, value)| (key.to_owned(), value.to_owned()));
    let mut annotations = Annotations::default();
    annotations.add(origin, &owned.collect::<BTreeMap<_, _>>()).unwrap();
    annotations
}

fn decide(node: &str, image: &[(&str, &str)], pod: &[(&str, &str)]) -> Result<Http, HttpError> {
    let node = node::parse(node).unwrap().options.http;
    node.decide(&annotations(Origin::Manifest, image), &annotations(Origin::Pod, pod))
}

fn env(variables: &[&str]) -> Vec<String> {
    variables.iter().map(|&variable| variable.to_owned()).collect()
}

#[test]
fn nothing_said_gives_the_documented_defaults() {
    let http = decide("", &[], &[]).unwrap();
    assert_eq!(http, Http::default());
    assert_eq!(http.address(&[]).unwrap(), "0.0.0.0:8080".parse().unwrap());
    assert_eq!((http.deadline, http.grace), (Duration::from_secs(60), Duration::from_secs(30)));
    assert_eq!((http.concurrency, http.queue, http.reuse), (128, 1024, 1));
    assert_eq!((http.connections, http.headers, http.header_bytes), (1024, 100, 65536));
}

#[test]
fn the_documented_table_reads_in_full() {
    let http = decide(
        "[http]\naddress = \"[::]:81\"\ndeadline = \"2m\"\nconcurrency = 2\nqueue = 0\nreuse = 9\n\
         grace = \"1h\"\nconnections = 5\nheader_bytes = 8192\nheaders = 7\nheader_timeout = \"5ms\"",
        &[],
        &[],
    )
    .unwrap();
    let expected = Http {
        asked_address: None,
        default_address: "[::]:81".parse().unwrap(),
        deadline: Duration::from_secs(120),
        concurrency: 2,
        queue: 0,
        reuse: 9,
        grace: Duration::from_secs(3600),
        connections: 5,
        header_bytes: 8192,
        headers: 7,
        header_timeout: Duration::from_millis(5),
    };
    assert_eq!(http, expected);
}

#[test]
fn an_annotation_goes_before_the_port_and_that_before_the_node() {
    let port = env(&["PORT=81", "OTHER=1", "PORT=82"]);
    let node = "[http]\naddress = \"127.0.0.1:80\"";
    let silent = decide(node, &[], &[]).unwrap();
    assert_eq!(silent.address(&[]).unwrap().to_string(), "127.0.0.1:80");
    assert_eq!(silent.address(&env(&["PORT="])).unwrap().to_string(), "127.0.0.1:80");
    assert_eq!(silent.address(&port).unwrap().to_string(), "0.0.0.0:82");
    let image = decide(node, &[(HTTP_ADDRESS, "10.0.0.1:83")], &[]).unwrap_err().to_string();
    assert!(image.contains("\"10.0.0.1:83\"; where a server listens is the pod's"), "{image}");
    let pod = decide(node, &[(HTTP_ADDRESS, "10.0.0.1:83")], &[(HTTP_ADDRESS, "[::1]:84")]);
    assert_eq!(pod.unwrap().address(&port).unwrap().to_string(), "[::1]:84");
    for wrong in ["PORT=0", "PORT=65536", "PORT=x", "PORT=tcp://10.0.0.1:80"] {
        let refused = silent.address(&env(&[wrong])).unwrap_err().to_string();
        assert!(refused.contains("variable PORT of process.env is"), "{refused}");
    }
}

#[test]
fn a_pod_gets_as_much_as_the_node_says_and_an_image_the_default() {
    let table = [
        (HTTP_CONCURRENCY, "200", "concurrency = 200", "concurrency = 199"),
        (HTTP_QUEUE, "2000", "queue = 2000", "queue = 1999"),
        (HTTP_DEADLINE, "61s", "deadline = \"61s\"", "deadline = \"60s\""),
    ];
    for (key, asked, enough, short) in table {
        let node = |line: &str| format!("[http]\n{line}");
        assert!(decide("", &[], &[(key, asked)]).is_ok(), "{key}: unwritten is no cap for a pod");
        assert!(decide(&node(enough), &[(key, asked)], &[]).is_ok(), "{key}");
        let refusals = [
            (decide("", &[(key, asked)], &[]), "the image manifest", "an image gets is"),
            (decide(&node(short), &[], &[(key, asked)]), "the pod", "a pod gets is"),
        ];
        for (refused, origin, most) in refusals {
            let refused = refused.unwrap_err().to_string();
            for part in [key, asked, origin, most, "of the node's [http]"] {
                assert!(refused.contains(part), "{part}: {refused}");
            }
        }
        assert!(decide("", &[(key, asked)], &[(key, "1ms")]).is_err() || key == HTTP_DEADLINE);
    }
}

#[test]
fn what_cannot_be_read_is_refused_by_name() {
    let table = [
        (HTTP_ADDRESS, "8080"),
        (HTTP_ADDRESS, "localhost:80"),
        (HTTP_ADDRESS, "0.0.0.0:0"),
        (HTTP_DEADLINE, "60"),
        (HTTP_DEADLINE, "0s"),
        (HTTP_DEADLINE, "25h"),
        (HTTP_GRACE, "1 s"),
        (HTTP_CONCURRENCY, "0"),
        (HTTP_CONCURRENCY, "+1"),
        (HTTP_QUEUE, "-1"),
        (HTTP_REUSE, "0"),
    ];
    for (key, value) in table {
        let refused = decide("", &[], &[(key, value)]).unwrap_err().to_string();
        let named = refused.contains(key) && refused.contains(value) && refused.contains("the pod");
        assert!(named && refused.contains("expected"), "{refused}");
    }
    for line in ["deadline = 60", "concurrency = 0", "address = \":80\"", "header_bytes = 1"] {
        let refused = node::parse(&format!("[http]\n{line}")).unwrap_err().to_string();
        assert!(refused.contains("[http]") && refused.contains("expected"), "{refused}");
    }
}

#[test]
fn the_options_go_before_the_node_file_key_by_key() {
    let above = NodeHttp { queue: Some(1), ..NodeHttp::default() };
    let below = NodeHttp { queue: Some(2), reuse: Some(3), ..NodeHttp::default() };
    assert_eq!(above.over(below), NodeHttp { queue: Some(1), reuse: Some(3), ..above });
}
