-- What the captures show: capture.py runs this with psql while it reads every slot.
\set ON_ERROR_STOP on
set client_min_messages = warning;
select dblink_connect('other', :'connection'), dblink_connect('one', :'connection'), dblink_connect('two', :'connection');

-- Row identities: primary key, old rows, a unique index, none.
begin;
insert into plain values (1, 'one', null), (2, '', 'two'), (3, 'three', 'drei');
update plain set name = 'uno' where id = 1;
update plain set id = 20 where id = 2;
delete from plain where id = 3;
insert into whole values (1, 'a'), (1, 'a'), (null, '');
update whole set b = null where a = 1;
delete from whole where a is null;
insert into by_index values (1, 'x', 'first'), (1, 'y', 'second');
update by_index set note = 'still the first' where b = 'x';
update by_index set b = 'z' where b = 'y';
delete from by_index where b = 'x';
insert into keyless values (1), (2);
insert into trimmed values (1, 'kept', 'not published');
insert into "Größe X"."Таблица ""q"" 表" values (1, 'ё', '🐘');
update "Größe X"."Таблица ""q"" 表" set "ÄÖ" = E'tab\tnew\nline\\' where "Id" = 1;
commit;

-- Values kept out of line, by default and with the whole old row.
insert into toasted values (1, 0, repeat('toast ', 400));
update toasted set n = 1;
update toasted set id = 2;
delete from toasted;
insert into toasted_whole values (1, repeat('0123456789', 210));
update toasted_whole set id = 2;

-- Types.
insert into every_type default values;
insert into every_type (a_int2) values (null);
update every_type set a_numeric = 'NaN', a_timestamptz = '-infinity', an_enum = 'sad', a_domain = 'b@c' where a_int2 is null;
insert into computing values (1, default, 'a generated column is not published');

-- Tables emptied: alone, several, with the tables that refer to them.
truncate plain;
truncate whole, keyless restart identity;
truncate parent cascade;
truncate parent, by_index restart identity cascade;

-- Partitions publish under their root; a row that moves between them is deleted and inserted.
insert into measured values (1, 'low'), (150, 'high');
update measured set n = 120 where n = 1;
truncate measured;

-- Messages beside rows and within them.
select pg_logical_emit_message(false, 'outside', 'right away');
begin;
select pg_logical_emit_message(true, 'inside', '\x00ff0a'::bytea);
insert into plain values (1, 'beside a message', null);
select pg_logical_emit_message(false, 'overtakes', '');
rollback;
begin;
select pg_logical_emit_message(true, '', 'with an empty prefix');
insert into plain values (1, 'beside a message', null);
commit;

-- A transaction that was replayed here from elsewhere.
select pg_replication_origin_create('somewhere else');
select pg_replication_origin_session_setup('somewhere else');
begin;
select pg_replication_origin_xact_setup('16/B374D848', '2001-02-03 04:05:06.789+00');
insert into plain values (2, 'from elsewhere', null);
commit;
begin;
select pg_replication_origin_xact_setup('16/B374D900', '2001-02-03 04:05:07+00');
insert into plain values (3, 'from elsewhere, streamed', null);
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
commit;
select pg_replication_origin_session_reset();

-- Streamed while in progress: unpublished rows fill the decoding memory of 64 kB without filling the captures.
begin;
insert into plain values (10, 'streamed', null);
savepoint one;
insert into plain values (11, 'in a subtransaction', null);
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
savepoint two;
update plain set name = 'undone' where id = 11;
delete from plain where id = 10;
select pg_logical_emit_message(true, 'in a stream', 'undone');
truncate whole;
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
select wait_for_streams();
rollback to savepoint two;
alter table plain add column late mood default 'happy';
update plain set id = 12 where id = 11;
truncate keyless, whole;
select pg_logical_emit_message(true, 'in a stream', 'kept');
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
commit;

-- Streamed, then rolled back as a whole.
begin;
insert into plain values (20, 'never', null, 'sad');
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
savepoint one;
insert into plain values (21, 'never either', null, 'sad');
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
select wait_for_streams();
rollback;

-- Two transactions stream segments in turns; the one that began last commits first.
select dblink_exec('one', $$
  begin;
  insert into plain values (30, 'one, first segment');
  insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n $$);
select dblink_exec('two', $$
  begin;
  insert into plain values (40, 'two, first segment');
  insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n $$);
insert into plain values (50, 'between segments');
select dblink_exec('one', $$
  insert into plain values (31, 'one, second segment');
  insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n $$);
select dblink_exec('two', $$
  insert into plain values (41, 'two, second segment');
  insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
  commit $$);
select dblink_exec('one', 'commit');

-- Two-phase commit: small and streamed, committed and rolled back.
begin;
insert into plain values (60, 'prepared');
prepare transaction 'small: kept';
begin;
insert into plain values (61, 'prepared');
prepare transaction 'small: größer "quoted"';
insert into whole values (2, 'between prepare and commit');
commit prepared 'small: kept';
rollback prepared 'small: größer "quoted"';
begin;
insert into plain values (62, 'prepared and streamed');
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
prepare transaction 'streamed: kept';
begin;
insert into plain values (63, 'prepared and streamed');
insert into unpublished select n, repeat('x', 500) from generate_series(1, 300) n;
prepare transaction 'streamed: undone';
select wait_for_streams();
commit prepared 'streamed: kept';
rollback prepared 'streamed: undone';
select wait_for_streams();
