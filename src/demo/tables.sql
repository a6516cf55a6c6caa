-- The source of the demo: a small bank, a shop whose rows are wide, and one specimen of every family of types.
-- {accounts}, {branches} and {orders} are numbers of rows.

create table branches (id integer primary key, balance bigint not null default 0, filler char(80) default '');
create table tellers (
  id integer primary key, branch integer not null references branches, balance bigint not null default 0,
  filler char(80) default ''
);
create table accounts (
  id integer primary key, branch integer not null references branches, balance bigint not null default 0,
  audited boolean not null default false, filler char(84) default ''
);
-- Append-only, and like many such tables without a key.
create table history (
  teller integer not null, branch integer not null, account integer not null, delta bigint not null,
  at timestamptz not null default clock_timestamp()
);
-- Without this, setup refuses to publish the table: its updates would fail from then on.
alter table history replica identity full;

insert into branches (id) select id from generate_series(1, {branches}) as id;
insert into tellers (id, branch) select id, 1 + (id - 1) / 10 from generate_series(1, {branches} * 10) as id;
insert into accounts (id, branch) select id, 1 + id % {branches} from generate_series(1, {accounts}) as id;

create type order_state as enum ('new', 'paid', 'sent', 'returned');
create domain positive as numeric(12, 2) check (value >= 0);
create table orders (
  id bigint generated always as identity primary key,
  key uuid not null default gen_random_uuid() unique,
  customer text not null,
  state order_state not null default 'new',
  total positive not null,
  tags text[] not null default '{}',
  details jsonb not null default '{}',
  picture bytea,
  letter text,
  placed_at timestamptz not null default clock_timestamp()
);
comment on column orders.letter is 'a tenth of the rows has one of 8 kB, stored out of line: an update need not send it';

insert into orders (customer, state, total, tags, details, picture, letter, placed_at)
  select 'customer ' || n % 5000,
         (enum_range(null::order_state))[1 + n % 4],
         round((random() * 1000)::numeric, 2),
         array['spring', case when n % 3 = 0 then 'gift' else 'größe ' || n % 40 end, null],
         jsonb_build_object(
           'number', n, 'weight', random(), 'note', E'tab\t, quote " and \U0001F40C',
           'items', (select jsonb_agg(jsonb_build_object('article', md5((n + i)::text), 'pieces', i)) from generate_series(1, 1 + n % 8) as i)),
         case when n % 5 = 0 then decode(md5(n::text) || md5((n + 1)::text), 'hex') end,
         case when n % 10 = 0 then (select string_agg(md5((n * 1000 + i)::text), '') from generate_series(1, 256) as i) end,
         timestamptz '2024-01-01 00:00:00+00' + n * interval '7 minutes'
    from generate_series(1, {orders}) as n;
create index on orders (placed_at);
create index on orders (lower(customer), total desc);
create index on orders using gin (tags);

create type address as (street text, number integer);
create table specimens (
  id integer primary key,
  small smallint, whole integer, big bigint, exact numeric, single real, twice double precision, price money,
  body text, short varchar(20), fixed char(8), ident name, flag boolean, bytes bytea, few bit(5), many varbit, key uuid,
  day date, clock time, zoned_clock timetz, local timestamp, instant timestamptz, span interval,
  plain json, document jsonb, vector tsvector, search tsquery,
  host inet, network cidr, card macaddr, card8 macaddr8,
  dot point, border polygon, wheel circle, side lseg, frame box, way path, beam line,
  numbers int4range, moments tstzrange, spans int4multirange, place pg_lsn, object oid,
  grid integer[], words text[], state order_state, amount positive, home address, doubled integer generated always as (whole * 2) stored
);
insert into specimens values
  (1, 1, 1, 1, 1.50, 1.5, 1.5, '1.50', 'plain', 'plain', 'plain', 'plain', true, '\xdeadbeef', B'10101', B'101',
   'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '2024-02-29', '12:34:56.789012', '12:34:56+05:30', '2024-02-29 12:34:56',
   '2024-02-29 12:34:56.789012+02', '1 year 2 days 03:04:05.6', '{"a" : 1,   "a":2}', '{"a": [1, null, "x"]}', 'a fat cat',
   'fat & !rat', '192.168.0.1/24', '10.0.0.0/8', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', '(1,2)', '((0,0),(1,1),(2,0))',
   '<(0,0),1>', '[(0,0),(1,1)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '{1,2,3}', '[1,10)', '[2024-01-01 00:00:00+00,)',
   '{[1,3),[5,9)}', '16/B374D848', 42, '{{1,2},{3,null}}', '{a,"b c",NULL,"NULL",""}', 'sent', 9.99, '("High Street",7)'),
  (2, -32768, -1073741824, -9223372036854775808, 'NaN', 'NaN', 'NaN', '-92233720368547758.08', '', '', '', '', false, '',
   B'00000', B'', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'infinity', '24:00:00', '00:00:00+15:59:59', 'infinity', 'infinity',
   '-178000000 years', 'null', 'null', '', '', '::1', '::/0', 'ff:ff:ff:ff:ff:ff', 'ff:ff:ff:ff:ff:ff:ff:ff', '(-0,1e300)',
   '((0,0))', '<(0,0),0>', '[(0,0),(0,0)]', '(0,0),(0,0)', '((0,0))', '{0,1,0}', 'empty', 'empty', '{}', '0/0', 0, '{}', '{}', 'new',
   0, '(,)'),
  (3, 32767, 1073741823, 9223372036854775807, repeat('9', 1000)::numeric, '-0', '-0', '92233720368547758.07',
   E'tab\t newline\n return\r backslash \\ end \\.', E'\\N', E'a  ', 'größe', null, decode(repeat('00ff', 2000), 'hex'), B'11111',
   repeat('10', 500)::varbit, null, '4713-01-01 BC', '00:00:00', '24:00:00-15:59:59', '4713-01-01 00:00:00 BC',
   '4713-01-02 00:00:00+00 BC', '-1 mon +2 days -03:04:05.678901', '"text"', '1e400', null, null, null, null, null, null,
   '(Infinity,NaN)', null, null, null, null, null, null, '(,)', null, '{(,)}', 'FFFFFFFF/FFFFFFFF', 4294967295,
   '[-1:0]={7,8}', array[repeat('long', 3000)], null, null, null);
insert into specimens (id) values (4);

-- One row, renewed all the time: its age at the target is the lag that a reader there sees.
create table pulse (id integer primary key, at timestamptz not null);
insert into pulse values (1, clock_timestamp());
