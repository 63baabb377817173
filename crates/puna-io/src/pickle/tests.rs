//! Hand-made pickles, benign and not.

use super::*;

fn run(bytes: &[u8]) -> Result<usize, IoError> {
    unpickle(Path::new("x.bin"), bytes).map(|p| p.objects.len())
}

fn message(bytes: &[u8]) -> String {
    run(bytes).expect_err("the pickle is bad").to_string()
}

#[test]
fn a_pickle_that_calls_the_system_is_refused_by_name() {
    assert_eq!(
        message(b"\x80\x02cos\nsystem\nX\x04\0\0\0rm -\x85R."),
        "x.bin: the pickle wants to call os.system; puna builds tensors and nothing else"
    );
    assert!(message(b"\x80\x04\x8c\x08builtins\x8c\x04eval\x93.").contains("builtins.eval"));
    assert!(message(b"\x80\x02ctorch.storage\n_load_from_bytes\n.").contains("_load_from_bytes"));
    assert!(message(b"\x80\x02ctorch\nload\n.").contains("torch.load"));
}

#[test]
fn scalars_and_containers_are_read() {
    // {"a": (1, -2, None, True), "b": [300]}
    let bytes = b"\x80\x02}(X\x01\0\0\0a(K\x01J\xfe\xff\xff\xffN\x88tX\x01\0\0\0b]M\x2c\x01au.";
    let p = unpickle(Path::new("x"), bytes).expect("sound");
    assert_eq!(p.consumed, bytes.len());
    let Some(Object::Dict(items)) = p.object(p.top) else { panic!("a dict") };
    assert_eq!(p.str(items[0].0), Some("a"));
    let Some(Object::Tuple(t)) = p.object(items[0].1) else { panic!("a tuple") };
    assert_eq!(t[..], [Value::Int(1), Value::Int(-2), Value::None, Value::Bool(true)]);
    let Some(Object::List(l)) = p.object(items[1].1) else { panic!("a list") };
    assert_eq!(l[..], [Value::Int(300)]);
}

#[test]
fn long1_is_sign_extended() {
    let p = unpickle(Path::new("x"), b"\x80\x02\x8a\x02\x00\xff.").expect("sound");
    assert_eq!(p.top, Value::Int(-256));
    let p = unpickle(Path::new("x"), b"\x80\x02\x8a\x00.").expect("sound");
    assert_eq!(p.top, Value::Int(0));
    let p = unpickle(Path::new("x"), b"\x80\x02\x8a\x09\x01\0\0\0\x02\0\0\0\0.").expect("sound");
    assert_eq!(p.top, Value::Int((2 << 32) + 1));
    let p = unpickle(Path::new("x"), b"\x80\x02\x8a\x09\0\0\0\0\0\0\0\x80\0.").expect("sound");
    assert!(matches!(p.object(p.top), Some(Object::Long(_))), "2^63 is no i64");
}

#[test]
fn deep_nesting_and_cycles_cost_no_recursion() {
    let mut deep = b"\x80\x02)".to_vec();
    deep.resize(1_000_000, 0x85);
    deep.push(b'.');
    assert!(run(&deep).is_ok());
    assert!(run(b"\x80\x02]q\0h\0a.").is_ok(), "a list that holds itself");
    let mut marks = b"\x80\x02".to_vec();
    marks.resize(MAX_STACK + 10, b'(');
    assert!(message(&marks).contains("limit"));
}

#[test]
fn counts_are_bounded() {
    let mut tuples = b"\x80\x02".to_vec();
    for _ in 0..=MAX_OBJECTS {
        tuples.extend_from_slice(b")0");
    }
    assert!(message(&tuples).contains("number of objects"));
    let mut stack = b"\x80\x02".to_vec();
    stack.resize(MAX_STACK + 10, b'N');
    assert!(message(&stack).contains("stack"));
    // One list of a million pairs turned into a dict many times.
    let mut copies = b"\x80\x02]q\0(N\x86q\x01".to_vec();
    copies.clear();
    copies.extend_from_slice(b"\x80\x02NN\x86q\x01]q\0(");
    copies.extend(std::iter::repeat_n(*b"h\x01", 100_000).flatten());
    copies.extend_from_slice(b"e0ccollections\nOrderedDict\nq\x02");
    copies.extend(std::iter::repeat_n(*b"h\x02h\0\x85R0", 1000).flatten());
    copies.push(b'.');
    assert!(message(&copies).contains("number of objects"), "{}", message(&copies));
}

#[test]
fn memo_indices_take_no_memory_by_themselves() {
    assert!(run(b"\x80\x02Nr\xff\xff\xff\xffj\xff\xff\xff\xff.").is_ok());
    assert!(message(b"\x80\x02h\x07.").contains("memo"));
}

#[test]
fn broken_pickles_are_errors() {
    for bytes in [
        &b""[..],
        b"\x80",
        b"\x80\x05N.",
        b"\x80\x02.",
        b"\x80\x020.",
        b"\x80\x02t.",
        b"\x80\x02X\xff\xff\xff\xffabc.",
        b"\x80\x02\x8d\xff\xff\xff\xff\xff\xff\xff\xffabc.",
        b"\x80\x02X\x01\0\0\0\xff.",
        b"\x80\x02}NK\x01u.",
        b"\x80\x02Na.",
        b"\x80\x02](NNu.",
        b"\x80\x02}(Nu.",
        b"\x80\x02(N\x86.",
        b"\x80\x02ccollections\n",
        b"\x80\x02NNR.",
        b"\x80\x02NQ.",
        b"\x80\x02i",
        b"\x80\x02I1\n.",
    ] {
        assert!(run(bytes).is_err(), "{}", bytes.escape_ascii());
    }
}
