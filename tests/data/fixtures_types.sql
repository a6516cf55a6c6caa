-- Every type family, with the values that software loses: one row of ordinary values, one of nulls, and the edges.

create table odd.numbers (
  id integer primary key,
  small smallint, whole integer, big bigint,
  exact numeric, scaled numeric(20, 5), single real, twice double precision, price money
);
insert into odd.numbers values
  (1, 1, 1, 1, 1.50, 1.5, 1.5, 1.5, '1.50'),
  (2, -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', 'NaN', 'NaN', '-92233720368547758.08'),
  (3, 32767, 2147483647, 9223372036854775807, 'Infinity', -0.00001, 'Infinity', 'Infinity', '92233720368547758.07'),
  (4, 0, 0, 0, '-Infinity', 0.00000, '-Infinity', '-Infinity', 0),
  (5, null, null, null, repeat('9', 1000)::numeric, null, '-0', '-0', null),
  (6, null, null, null, ('-0.' || repeat('0', 900) || '1')::numeric, null, 1e-45, 5e-324, null),
  (7, null, null, null, 1.0000000000, 99999.99999, 3.4028235e38, 1.7976931348623157e308, null),
  (8, null, null, null, 1e-16383, null, 0.1, 0.1, null),
  (9, null, null, null, 1e131071, null, 16777217, 9007199254740993, null);
insert into odd.numbers (id) values (10);

create table odd.texts (
  id integer primary key,
  body text, short varchar(10), fixed char(8), single char, internal "char", ident name, folded citext
);
insert into odd.texts values
  (1, 'plain', 'plain', 'plain', 'p', 'p', 'plain', 'Plain'),
  (2, '', '', '', '', '', '', ''),
  (3, E'\\N', E'\\N', E'\\.', E'\\', E'\\', E'\\N', E'\\N'),
  (4, E'tab\tnewline\ncarriage\rreturn\\backslash\b\f\v', E'\t\n\r\\', E'a  ', ' ', ' ', E'\t', E'A\nb'),
  (5, 'NULL', 'null', 'NULL', 'N', 'N', 'null', 'NULL'),
  (6, E'emoji \U0001F600, combining e\u0301 and \u00e9, rtl \u05d0, \uFEFF bom, \uFFFF last', 'äöüÄÖÜß', 'éé', 'é', null, 'é', 'É'),
  (7, E'\x01\x02\x1f\x7f', E'\x01', E'\x01', E'\x01', E'\x7f', E'\x01', E'\x01'),
  (8, repeat('long ', 1000), 'ten chars!', 'eight ch', 'x', null, repeat('n', 63), repeat('C', 500)),
  (9, 'copy end:' || E'\n\\.\n' || 'after', ',";''', '{}', '"', '"', '"a"."b"', '''');
insert into odd.texts (id) values (10);

create table odd.bits (id integer primary key, flag boolean, bytes bytea, few bit(5), many varbit, upto varbit(10), key uuid);
insert into odd.bits values
  (1, true, '\xdeadbeef', B'10101', B'1', B'101', '00000000-0000-0000-0000-000000000000'),
  (2, false, '', B'00000', B'', B'', 'ffffffff-ffff-ffff-ffff-ffffffffffff'),
  (3, null, '\x00', null, repeat('10', 500)::varbit, null, 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11');
insert into odd.bits (id, bytes)
  select 4, decode(string_agg(lpad(to_hex(byte), 2, '0'), '' order by byte), 'hex') from generate_series(0, 255) as byte;

create table odd.times (
  id integer primary key,
  day date, clock time, zoned_clock timetz, local timestamp, instant timestamptz, span interval,
  coarse timestamptz(0), years interval year to month
);
insert into odd.times values
  (1, '2024-02-29', '12:34:56.789012', '12:34:56+05:30', '2024-02-29 12:34:56.789012', '2024-02-29 12:34:56.789012+02', '1 day', now(), '1 year'),
  (2, 'infinity', '00:00:00', '00:00:00+15:59:59', 'infinity', 'infinity', '0', 'infinity', '0'),
  (3, '-infinity', '24:00:00', '24:00:00-15:59:59', '-infinity', '-infinity', '-178000000 years', '-infinity', '-1 month'),
  (4, '4713-01-01 BC', '23:59:59.999999', '23:59:59.999999+00', '4713-01-01 00:00:00 BC', '4713-01-02 00:00:00+00 BC', '178000000 years', null, null),
  (5, '5874897-12-31', null, null, '294276-12-31 23:59:59.999999', '294276-12-31 23:59:59.999999+00', '-1 mon +2 days -03:04:05.678901', null, null),
  (6, '0001-01-01', null, null, '0001-12-31 23:59:59 BC', '1900-01-01 00:00:00+00', '1 mon -30 days +720:00:00', null, null),
  (7, '1582-10-10', null, null, '1999-12-31 23:59:60', '2016-12-31 23:59:60+00', '00:00:00.000001', null, null);
insert into odd.times (id) values (8);
select current_setting('server_version_num')::integer >= 170000 as has_infinite_intervals \gset
\if :has_infinite_intervals
  insert into odd.times (id, span) values (9, 'infinity'), (10, '-infinity');
\endif

create table odd.documents (id integer primary key, doc json, docb jsonb, markup xml, path jsonpath);
insert into odd.documents values
  (1, '{"a": 1}', '{"a": 1}', '<a/>', '$.a'),
  (2, '{"zero": "\u0000", "a" : 1,   "a":2, "b":[ ] }', '{"a": 2, "b": []}', '<a b="&lt;">text<!-- note --></a>', '$.**{2 to last}'),
  (3, E'\n  {\t"spaced"  :\r\n[1.0, 1.00, 1e400, -0] }  \n', '[1.0, 1.00, 100000000000000000000000000000, -0]', 'content <only/>', 'strict $[*] ? (@ > 1)'),
  (4, 'null', 'null', '<?xml version="1.0"?><a>é</a>', '$'),
  (5, '"\ud83d\ude00 \\ \" \/"', '"\ud83d\ude00 \\ \" \/"', null, null),
  (6, '1e-1000000', '{"": {"": {"": null}}}', '', null);
insert into odd.documents (id) values (7);

create table odd.arrays (
  id integer primary key,
  numbers integer[], words text[], bounded integer[], grid integer[][], moods odd.mood[], spans tstzrange[],
  blobs bytea[], docs jsonb[], points odd.point3[], three odd.three, floats float8[], exacts numeric[], boxes box[]
);
insert into odd.arrays values
  (1, '{1,2,3}', '{a,b}', '[5:7]={1,2,3}', '{{1,2},{3,4}}', '{sad,happy}', array[tstzrange(now(), null)],
   array['\x00ff'::bytea, ''], array['{"a": "{}"}'::jsonb], array[row(1, 2, 3)::odd.point3, null], '{1,2,3}',
   '{NaN,-0,Infinity}', '{NaN,1.10,-Infinity}', '{(1,1),(0,0);(2,2),(1,1)}'),
  (2, '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}', '{}'),
  (3, '{NULL,1,NULL}', array['NULL', null, 'null', '', ' ', '"', E'\\', '{', '}', ',', E'\n', 'it''s'],
   '[-2:-1][0:1]={{1,2},{3,NULL}}', '{{{1},{2}},{{3},{4}}}', array['it''s "quoted", with {braces}', '']::odd.mood[],
   array['empty'::tstzrange, null], array[null]::bytea[], array['null'::jsonb, null], null, null, null, null, null);
insert into odd.arrays (id) values (4);

create table odd.composed (
  id integer primary key,
  mood odd.mood, size odd."Größe", amount odd.positive, label odd.named, code odd.postcode, spot odd.point3, line odd.line3,
  unit odd.unit_point, holder odd.mood_holder[]
);
insert into odd.composed values
  (1, 'happy', 'groß', 1, 'one', 'AB 12', row(1, 2, 3), row(row(0, 0, 0), row('NaN', '-Infinity', '-0'), 'a "label", (here)', '{sad}'),
   row(0.5, 0, 0), array[row('ok', 'infinity')::odd.mood_holder]),
  (2, '', null, null, '', 'nobody', row(null, null, null), row(null, null, '', '{}'), null, '{}'),
  (3, 'it''s "quoted", with {braces}', null, null, E'new\nline', 'X', null, null, null, null);

create table odd.ranges (
  id integer primary key,
  whole int4range, big int8range, exact numrange, days daterange, local tsrange, instant tstzrange, words odd.textrange,
  wholes int4multirange, exacts nummultirange, instants tstzmultirange
);
insert into odd.ranges values
  (1, '[1,5)', '[1,5]', '[1.5,2.5]', '[2024-01-01,2024-12-31]', '[2024-01-01,2024-01-02)', '[2024-01-01 00:00+00,)', '[a,b)',
   '{[1,2),[5,9)}', '{[1.1,2.2]}', '{[2024-01-01 00:00+00,2024-01-02 00:00+00)}'),
  (2, 'empty', 'empty', 'empty', 'empty', 'empty', 'empty', 'empty', '{}', '{}', '{}'),
  (3, '(,)', '(,0)', '[-Infinity,NaN]', '[-infinity,infinity]', '(,infinity)', '[-infinity,)', '["a, b","b""c]")', '{(,)}', '{(,0),(1,)}', '{(,)}');
insert into odd.ranges (id) values (4);

create table odd.places (
  id integer primary key,
  host inet, net cidr, mac macaddr, mac8 macaddr8,
  spot point, straight line, piece lseg, area box, way path, shape polygon, round circle
);
insert into odd.places values
  (1, '192.168.0.1', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,2)', '{1,2,3}', '[(1,2),(3,4)]',
   '(3,4),(1,2)', '((1,2),(3,4))', '((0,0),(1,0),(1,1))', '<(1,2),3>'),
  (2, '::1/64', '2001:db8::/32', '00:00:00:00:00:00', 'ff:ff:ff:ff:ff:ff:ff:ff', '(NaN,-0)', null, null, null, '[(1,2),(3,4)]', null, '<(0,0),0>'),
  (3, '10.1.2.3/24', '0.0.0.0/0', null, null, '(Infinity,-Infinity)', null, null, null, null, null, null);

create table odd.searches (id integer primary key, words tsvector, question tsquery, tags hstore, place ltree, pattern lquery);
insert into odd.searches values
  (1, 'a:1A fat:2B,4C cat:5D', 'fat & (rat | cat:*AB)', 'a=>1, "b c"=>NULL, ""=>"x\"y"', 'Top.Science.Astronomy', '*.Astro*%'),
  (2, '', '', '', '', '*{2,}'),
  (3, '''it''''s'' ''\\''', '!a <-> b', 'NULL=>"NULL"', 'a', null);

create table odd.internals (
  id integer primary key, at pg_lsn, object oid, class regclass, type regtype, proc regprocedure, role regrole,
  space regnamespace, snap pg_snapshot, xid8 xid8, place tid, xid xid
);
insert into odd.internals values
  (1, '16/B374D848', 4294967295, 'odd.numbers', 'integer', 'now()', 'postgres', 'odd', '10:20:10,14,15', '18446744073709551615', '(4294967295,65535)', '4294967295'),
  (2, '0/0', 0, null, 'odd.mood', null, null, null, null, '0', '(0,0)', '3');

-- Values that leave their row: chance keeps them incompressible, so an update of `note` leaves them "unchanged".
create table odd.large (id integer primary key, note text, blob bytea, body text, doc jsonb, packed text, matrix float8[]);
alter table odd.large alter column blob set storage external, alter column packed set storage extended;
create function odd.noise(bytes integer, seed integer) returns text language sql immutable strict as $$
  select substr(string_agg(md5(seed::text || ':' || part::text), '' order by part), 1, bytes)
  from generate_series(1, bytes / 32 + 1) as part
$$;
insert into odd.large
  select id, 'row ' || id, decode(odd.noise(id * 4000, id), 'hex'), odd.noise(id * 9000, -id),
    jsonb_build_object('noise', odd.noise(id * 5000, id + 100), 'id', id), repeat('compressible ', id * 5000),
    (select array_agg(sin(id * part)) from generate_series(1, id * 500) as part)
  from generate_series(1, 6) as id;
insert into odd.large (id, body) values (7, odd.noise(3000000, 7));
insert into odd.large (id) values (8);
