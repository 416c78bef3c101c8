#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| popbridge::message::fuzzing::message(input));
