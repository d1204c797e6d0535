//! What a certificate says, read from its DER (RFC 5280). Only as much as is shown to somebody or compared with
//! something: whether a certificate can be believed is for others to find out.

use std::fmt::Write;
use std::net::IpAddr;

/// What a certificate says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Details<'a> {
    /// The holder, as RFC 2253 writes it: `CN=client,O=Example`.
    pub subject: String,
    /// Seconds since 1970.
    pub not_before: i64,
    /// Seconds since 1970.
    pub not_after: i64,
    /// The public key, with its kind.
    pub subject_public_key_info: &'a [u8],
    /// DNS names.
    pub names: Vec<&'a str>,
    /// URIs, such as SPIFFE ids.
    pub uris: Vec<&'a str>,
    /// IP addresses.
    pub addresses: Vec<IpAddr>,
    /// Mail addresses.
    pub mails: Vec<&'a str>,
}

/// Reads a certificate; `None` where it is none.
pub fn details(der: &[u8]) -> Option<Details<'_>> {
    let mut certificate = Elements(der).next()?.within(SEQUENCE)?;
    let mut body = certificate.next()?.within(SEQUENCE)?;
    if body.clone().next()?.tag == VERSION {
        body.next()?;
    }
    let (_serial, _algorithm, _issuer) = (body.next()?, body.next()?, body.next()?);
    let mut validity = body.next()?.within(SEQUENCE)?;
    let subject = body.next()?.within(SEQUENCE)?;
    let key = body.next().filter(|key| key.tag == SEQUENCE)?;
    let mut details = Details {
        not_before: time(validity.next()?)?,
        not_after: time(validity.next()?)?,
        subject: name(subject)?,
        subject_public_key_info: key.whole,
        ..Details::default()
    };
    for element in body.filter(|element| element.tag == EXTENSIONS) {
        for extension in Elements(element.content).next()?.within(SEQUENCE)? {
            let mut parts = extension.within(SEQUENCE)?;
            if parts.next()?.content == ALTERNATIVE_NAMES {
                let value = parts.last().filter(|value| value.tag == OCTETS)?;
                details.read_names(value.content)?;
            }
        }
    }
    Some(details)
}

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OCTETS: u8 = 0x04;
const OBJECT: u8 = 0x06;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;
const VERSION: u8 = 0xa0;
const EXTENSIONS: u8 = 0xa3;

/// 2.5.29.17.
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// What RFC 2253 and OpenSSL call the parts of a name.
const ATTRIBUTES: &[(&[u8], &str)] = &[
    (&[0x55, 0x04, 0x03], "CN"),
    (&[0x55, 0x04, 0x04], "SN"),
    (&[0x55, 0x04, 0x05], "serialNumber"),
    (&[0x55, 0x04, 0x06], "C"),
    (&[0x55, 0x04, 0x07], "L"),
    (&[0x55, 0x04, 0x08], "ST"),
    (&[0x55, 0x04, 0x09], "street"),
    (&[0x55, 0x04, 0x0a], "O"),
    (&[0x55, 0x04, 0x0b], "OU"),
    (&[0x55, 0x04, 0x0c], "title"),
    (&[0x55, 0x04, 0x2a], "GN"),
    (
        &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x01],
        "emailAddress",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x01],
        "UID",
    ),
    (
        &[0x09, 0x92, 0x26, 0x89, 0x93, 0xf2, 0x2c, 0x64, 0x01, 0x19],
        "DC",
    ),
];

/// Elements, one behind the other. Ends where what follows is none.
#[derive(Clone, Copy)]
struct Elements<'a>(&'a [u8]);

/// One of them.
#[derive(Clone, Copy)]
struct Element<'a> {
    tag: u8,
    content: &'a [u8],
    /// With tag and length.
    whole: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Element<'a>;

    fn next(&mut self) -> Option<Element<'a>> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = match first {
            0..0x80 => (usize::from(first), rest),
            // DER has no open lengths, and no certificate is longer than four bytes can tell.
            0x81..=0x84 => {
                let (digits, rest) = rest.split_at_checked(usize::from(first - 0x80))?;
                let length = digits
                    .iter()
                    .fold(0, |length: usize, &digit| length << 8 | usize::from(digit));
                (length, rest)
            }
            0x80 | 0x85.. => return None,
        };
        let (content, rest) = rest.split_at_checked(length)?;
        let whole = &self.0[..self.0.len() - rest.len()];
        self.0 = rest;
        Some(Element {
            tag,
            content,
            whole,
        })
    }
}

impl<'a> Element<'a> {
    /// The elements in it, should it be of this kind.
    fn within(self, tag: u8) -> Option<Elements<'a>> {
        (self.tag == tag).then_some(Elements(self.content))
    }
}

impl<'a> Details<'a> {
    fn read_names(&mut self, extension: &'a [u8]) -> Option<()> {
        for name in Elements(extension).next()?.within(SEQUENCE)? {
            let text = std::str::from_utf8(name.content);
            match (name.tag, text) {
                (0x81, Ok(mail)) => self.mails.push(mail),
                (0x82, Ok(host)) => self.names.push(host),
                (0x86, Ok(uri)) => self.uris.push(uri),
                (0x87, _) => self.addresses.extend(address(name.content)),
                (_, _) => {}
            }
        }
        Some(())
    }
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        16 => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
        _ => None,
    }
}

/// `YYMMDDHHMMSSZ` or `YYYYMMDDHHMMSSZ`.
fn time(element: Element<'_>) -> Option<i64> {
    let digits = element.content.strip_suffix(b"Z")?;
    let number = |digits: &[u8]| {
        digits.iter().try_fold(0, |number: i64, digit| {
            digit
                .is_ascii_digit()
                .then(|| number * 10 + i64::from(digit - b'0'))
        })
    };
    let (year, rest) = match (element.tag, digits.len()) {
        (UTC_TIME, 12) => {
            let year = number(&digits[..2])?;
            (
                if year < 50 { 2000 + year } else { 1900 + year },
                &digits[2..],
            )
        }
        (GENERALIZED_TIME, 14) => (number(&digits[..4])?, &digits[4..]),
        (_, _) => return None,
    };
    let part = |index: usize| number(&rest[2 * index..2 * index + 2]);
    let (month, day) = (part(0)?, part(1)?);
    let (hour, minute, second) = (part(2)?, part(3)?, part(4)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || hour > 23 || minute > 59 {
        return None;
    }
    Some(((days(year, month, day) * 24 + hour) * 60 + minute) * 60 + second)
}

/// Days since 1970 in the Gregorian calendar: years are counted from March, so that the leap day comes last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let in_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    365 * year + year.div_euclid(4) - year.div_euclid(100) + year.div_euclid(400) + in_year
        - 719_468
}

/// The last part first, as RFC 2253 has it.
fn name(parts: Elements<'_>) -> Option<String> {
    let mut parts: Vec<String> = parts
        .map(|set| {
            let attributes = set.within(SET)?.map(attribute);
            Some(attributes.collect::<Option<Vec<_>>>()?.join("+"))
        })
        .collect::<Option<_>>()?;
    parts.reverse();
    Some(parts.join(","))
}

fn attribute(element: Element<'_>) -> Option<String> {
    let mut parts = element.within(SEQUENCE)?;
    let kind = parts.next().filter(|kind| kind.tag == OBJECT)?.content;
    let value = parts.next()?;
    let known = ATTRIBUTES.iter().find(|(id, _)| *id == kind);
    Some(match (known, text(value)) {
        (Some((_, name)), Some(text)) => format!("{name}={}", escaped(&text)),
        (Some((_, name)), None) => format!("{name}=#{}", hexadecimal(value.whole)),
        (None, _) => format!("{}=#{}", dotted(kind), hexadecimal(value.whole)),
    })
}

/// The text of a string of whatever kind.
fn text(value: Element<'_>) -> Option<String> {
    let bytes = value.content;
    match value.tag {
        // UTF8String
        0x0c => std::str::from_utf8(bytes).ok().map(str::to_owned),
        // NumericString, PrintableString, T61String, IA5String: taken for Latin-1, which has the ASCII ones in it
        0x12..=0x14 | 0x16 => Some(bytes.iter().map(|&byte| char::from(byte)).collect()),
        // BMPString
        0x1e => {
            let units = bytes
                .chunks_exact(2)
                .map(|b| u16::from_be_bytes([b[0], b[1]]));
            char::decode_utf16(units).collect::<Result<_, _>>().ok()
        }
        _ => None,
    }
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    let last = text.chars().count().saturating_sub(1);
    for (index, char) in text.chars().enumerate() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' => escaped.extend(['\\', char]),
            '#' if index == 0 => escaped.push_str("\\#"),
            ' ' if index == 0 || index == last => escaped.push_str("\\ "),
            ' '..='~' => escaped.push(char),
            _ => {
                for byte in char.encode_utf8(&mut [0; 4]).bytes() {
                    // Writing to a String cannot fail.
                    let _ = write!(escaped, "\\{byte:02X}");
                }
            }
        }
    }
    escaped
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02X}");
        text
    })
}

/// An object identifier in numbers.
fn dotted(id: &[u8]) -> String {
    let mut numbers: Vec<u64> = Vec::new();
    let mut number: u64 = 0;
    for &byte in id {
        number = number.wrapping_shl(7) | u64::from(byte & 0x7f);
        if byte & 0x80 == 0 {
            if numbers.is_empty() {
                let first = (number / 40).min(2);
                numbers.extend([first, number - 40 * first]);
            } else {
                numbers.push(number);
            }
            number = 0;
        }
    }
    let numbers: Vec<String> = numbers.iter().map(u64::to_string).collect();
    numbers.join(".")
}
