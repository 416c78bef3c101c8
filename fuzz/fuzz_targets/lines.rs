#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| popbridge::pop3::fuzzing::lines(input));
