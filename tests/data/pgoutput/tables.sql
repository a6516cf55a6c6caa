-- The tables that scenario.sql changes; made before the slots, so that no capture holds their making.
\set ON_ERROR_STOP on
create extension dblink;

create type mood as enum ('sad', 'happy', 'sehr glücklich');
create domain address as text check (value like '%@%');
create type pair as (a int, b text);

create table unpublished (n int, filler text);
create table plain (id int primary key, name text, note text);
create table whole (a int, b text);
alter table whole replica identity full;
create table by_index (a int, b text not null unique, note text);
alter table by_index replica identity using index by_index_b_key;
create table keyless (n serial);
alter table keyless replica identity nothing;
create table trimmed (id int primary key, kept text, left_out text);
create schema "Größe X";
create table "Größe X"."Таблица ""q"" 表" ("Id" int primary key, "ÄÖ" text, "select" text);
create table toasted (id int primary key, n int, big text);
alter table toasted alter big set storage external;
create table toasted_whole (id int primary key, big text);
alter table toasted_whole alter big set storage external, replica identity full;
create table computing (id int primary key, doubled int generated always as (id * 2) stored, last text);
create table parent (id int primary key);
create table child (id int primary key, parent_id int references parent);
create table measured (n int primary key, what text) partition by range (n);
create table measured_low partition of measured for values from (0) to (100);
create table measured_high partition of measured for values from (100) to (200);

create table every_type (
  gone int,
  a_bool bool default true,
  a_char "char" default 'c',
  a_name name default 'name',
  a_int2 int2 default -32768,
  a_int4 int4 default 2147483647,
  a_int8 int8 default -9223372036854775808,
  a_float4 float4 default 'infinity',
  a_float8 float8 default 0.1,
  a_numeric numeric default -1234567890.0123456789,
  a_money money default 12.34,
  a_bpchar char(5) default 'ab',
  a_varchar varchar(9) default 'ünï',
  a_text text default E'back\\slash\ttab',
  a_bytea bytea default '\x00ff5c',
  a_date date default '0044-03-15 BC',
  a_time time default '24:00:00',
  a_timetz timetz default '12:34:56.789+05:30',
  a_timestamp timestamp default 'infinity',
  a_timestamptz timestamptz default '2001-02-03 04:05:06.789012+00',
  a_interval interval default '1 year -2 days 03:04:05.6',
  a_uuid uuid default 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
  a_json json default '{"a": "\u0000", "a" : 1}',
  a_jsonb jsonb default '{"b": [1.50, null]}',
  a_jsonpath jsonpath default '$.a[*] ? (@ > 1)',
  a_inet inet default '192.168.0.1/24',
  a_cidr cidr default '2001:db8::/32',
  a_macaddr macaddr default '08:00:2b:01:02:03',
  a_macaddr8 macaddr8 default '08:00:2b:01:02:03:04:05',
  a_bit bit(3) default b'101',
  a_varbit varbit default b'',
  a_point point default '(1,2)',
  a_line line default '{1,2,3}',
  a_lseg lseg default '[(1,2),(3,4)]',
  a_box box default '(3,4),(1,2)',
  a_path path default '[(1,2),(3,4)]',
  a_polygon polygon default '((1,2),(3,4),(5,6))',
  a_circle circle default '<(1,2),3>',
  a_tsvector tsvector default 'a:1A fat:2 cat',
  a_tsquery tsquery default 'fat & !cat',
  a_int4range int4range default '[1,9)',
  a_multirange nummultirange default '{[1,2),(3,)}',
  a_oid oid default 42,
  a_regclass regclass default 'pg_class',
  a_pg_lsn pg_lsn default '16/B374D848',
  a_xid8 xid8 default '12345678901',
  an_aclitem aclitem default 'postgres=r/postgres', -- has no binary form
  an_int_array int[] default '[0:1][1:2]={{1,NULL},{3,4}}',
  a_text_array text[] default array['', 'NULL', null, 'a,"b'],
  an_enum mood default 'sehr glücklich',
  an_enum_array mood[] default '{sad,happy}',
  a_domain address default 'a@b',
  a_composite pair default row(1, 'zwei'),
  a_composite_array pair[] default array[row(1, null)::pair]
);
alter table every_type drop column gone, replica identity full;

create publication p for table plain, whole, by_index, keyless, trimmed (id, kept), "Größe X"."Таблица ""q"" 表",
  toasted, toasted_whole, every_type, computing, parent, child, measured with (publish_via_partition_root = true);

-- Returns when every stream has read what is in the log now: a transaction must be streamed before it is rolled back.
create function wait_for_streams() returns void language plpgsql as $$
declare
  written pg_lsn;
begin
  perform dblink_exec('other', 'insert into unpublished values (0)'); -- a commit, since only that flushes the log
  written := pg_current_wal_flush_lsn();
  while exists (select from pg_stat_replication where sent_lsn < written) loop
    perform pg_sleep(0.01), pg_stat_clear_snapshot();
  end loop;
end $$;
