//! Prints its configuration, then counts its runs and keeps words in the store: see README.md.

wit_bindgen::generate!({ path: "wit", world: "notes", generate_all });

use wasi::config::store as config;
use wasi::keyvalue::{atomics, batch, store};

fn main() {
    for name in ["greeting", "GREETING", "absent"] {
        println!("config {name} {:?}", config::get(name).expect("configuration"));
    }
    let mut all = config::get_all().expect("configuration");
    all.sort();
    println!("all {all:?}");
    let bucket = store::open("").expect("the store");
    let again = store::open("").expect("the store");
    bucket.set("word", b"kept").expect("room");
    println!("word {:?}", again.get("word").expect("a bucket").map(text));
    println!("count {:?}", atomics::increment(&bucket, "count", 2));
    println!("count {:?}", atomics::increment(&again, "count", 3));
    println!("not a number {:?}", atomics::increment(&bucket, "word", 1));
    let pairs = [("a".to_owned(), b"1".to_vec()), ("b".to_owned(), b"2".to_vec())];
    batch::set_many(&bucket, &pairs).expect("room");
    let names = ["b", "none"].map(str::to_owned);
    println!("many {:?}", batch::get_many(&again, &names));
    batch::delete_many(&again, &["a".to_owned()]).expect("a bucket");
    println!("keys {:?}", bucket.list_keys(None).expect("a bucket").keys);
    println!("full {:?}", bucket.set("large", &vec![0; 17 << 20]));
    println!("other {:?}", store::open("other").map(drop));
}

fn text(bytes: Vec<u8>) -> String {
    String::from_utf8_lossy(&bytes).into_owned()
}
