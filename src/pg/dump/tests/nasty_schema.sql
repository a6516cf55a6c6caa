-- A schema that tries to lead the parser astray.
create schema "Sch; Type: TABLE; Schema: public; Owner: -";
create schema "new
line";
create schema app;
create schema ext;
create extension citext schema ext;
comment on extension citext is 'it''s; "text"
--
-- Name: evil; Type: TABLE; Schema: public; Owner: -
--
';
create role "Ro'le; ""x""";
create role plain;
create role chain;

-- Types
create type app.mood as enum ('so; so', 'it''s', '$$', E'back\\slash');
create type app."Pair" as (a int, "B; b" text);
comment on column app."Pair"."B; b" is '';
create type app.span as range (subtype = float8);
create domain app.positive as int default 1 constraint "p; p" check (value > 0) not null;
alter domain app.positive add constraint later check (value < 1000) not valid;
comment on domain app.positive is 'on table x';
comment on constraint "p; p" on domain app.positive is 'x';
create collation app.c from "C";

-- Routines
create function app.header() returns text language plpgsql as $body$
begin
--
-- Name: evil; Type: TABLE; Schema: public; Owner: -
--
  return $$ ; ' " $$ || $_$ -- $_$;
end
-- PostgreSQL database dump complete
/*
\connect evil
*/
$body$;
create function app.quoted(a text default E'\';\\', b text default $$;--$$) returns text language sql as
'select '';'' || E''\\'' -- ; /*
 -- $$ ';
create function app.atomic(a int, "case" int default 2) returns int language sql
begin atomic
  select case when a > 1 then case a when 2 then 3 else "case" end end as "end";
  select a + (case when a = 1 then 1 end);
end;
create procedure app."Do; it"(inout "begin" int) language sql
begin atomic
  select 1; select 2; select "begin";
end;
comment on procedure app."Do; it"(int) is E'tab\there\nand -- there';
create aggregate app.total(int) (sfunc = int4pl, stype = int, initcond = '0');
create operator app.=== (leftarg = int, rightarg = int, function = int4eq);
create text search configuration app.words (copy = simple);
create cast (app.mood as app."Pair") with inout;

-- Tables
create table app.parent (
  id bigint generated always as identity primary key,
  "Quo""ted; name" text not null default ';--',
  m app.mood, p app."Pair", d app.positive, c ext.citext collate "C",
  twice int generated always as (length('a;') * 2) stored,
  tags text[] default '{";"}', during int4range,
  constraint "odd; ""c""" check ("Quo""ted; name" <> '); drop'),
  constraint "ex" exclude using gist (during with &&)
);
alter table app.parent alter column "Quo""ted; name" set statistics 500;
alter table app.parent add constraint later check (id < 100) not valid;
comment on table app.parent is 'first
-- Name: evil; Type: TABLE; Schema: public; Owner: -
last';
comment on column app.parent."Quo""ted; name" is 'x';
comment on constraint "odd; ""c""" on app.parent is 'x';
comment on constraint parent_pkey on app.parent is 'x';
create table "Sch; Type: TABLE; Schema: public; Owner: -"."t; Type: VIEW; Schema: app; Owner: -" (
  id serial primary key, parent bigint references app.parent on delete cascade deferrable, self int
);
alter table "Sch; Type: TABLE; Schema: public; Owner: -"."t; Type: VIEW; Schema: app; Owner: -"
  add constraint "fk; x" foreign key (self)
  references "Sch; Type: TABLE; Schema: public; Owner: -"."t; Type: VIEW; Schema: app; Owner: -" not valid;
create table "new
line"."ta
ble;" (a int unique, "c
d" text);
create unlogged table public."Größe€" (id int, "on" int, "table" text) with (fillfactor = 70);
create table public."on" (a int);
create table public.child () inherits (public."on");
create unique index "In; dex" on public."Größe€" (id, lower("table")) where "on" > 1;
alter table public."Größe€" alter column id set not null;
create unique index full_unique on public."Größe€" (id);
alter table public."Größe€" replica identity using index full_unique;
alter table public."Größe€" cluster on full_unique;
create index plain_index on public."Größe€" ((id + 1));
alter index plain_index alter column 1 set statistics 100;
comment on index public.plain_index is 'x';
create statistics app.st (dependencies) on id, "on" from public."Größe€";
create sequence app.alone as smallint increment -1;
alter table app.parent replica identity full;

-- Partitions
create table app.part (id int, at date not null, note text default 'x', primary key (id, at)) partition by range (at);
create table app.part_2024 partition of app.part for values from ('2024-01-01') to ('2025-01-01');
create table app.part_rest partition of app.part (note default 'own') default partition by list (id);
create table app.part_rest_1 partition of app.part_rest for values in (1, 2);
create index part_note on app.part (note);
create table app.to_part (id int, at date, foreign key (id, at) references app.part);
alter table app.part add foreign key (id) references "new
line"."ta
ble;" (a);
comment on index app.part_note is 'x';

-- Views
create view app.by_key as select id, "Quo""ted; name", count(*) from app.parent group by id;
create view app.v with (security_barrier) as select ';' as ";", '$$' as b, id from app.parent where id > 0;
alter view app.v alter column b set default 'x';
comment on view app.v is 'x';
comment on column app.v.b is 'x';
create materialized view app.m as select id, count(*) as n from app.parent group by id;
create unique index m_id on app.m (id);
comment on materialized view app.m is 'x';
create materialized view app.m2 as select 1 as one;
create index on app.m2 (one);

create function app.needs_key(i int) returns bigint immutable language sql begin atomic
  select count(*) from (select id, "Quo""ted; name" from app.parent group by id) as k where k.id = i;
end;
create index a_on_late on public."on" (app.needs_key(a));

-- Rules, triggers, policies
create rule "r; r" as on insert to public."on" where new.a > 1 do also (
  insert into public."Größe€" values (new.a, 1, ';'); update public."Größe€" set "on" = 2
);
create rule off as on delete to public."on" do instead nothing;
alter table public."on" disable rule off;
create rule v_ins as on insert to app.v do instead nothing;
comment on rule "r; r" on public."on" is 'x';
create function app.trg() returns trigger language plpgsql as $$ begin return new; end $$;
create trigger "tr; g" before update of "on", "table" on public."Größe€"
  for each row when (old."on" > 1) execute function app.trg('; --', E'\'');
create trigger stmt after update on public."Größe€" referencing old table as o new table as n
  for each statement execute function app.trg();
create constraint trigger con after insert on public."on" from app.parent deferrable initially deferred
  for each row execute function app.trg();
create trigger on_part after insert on app.part for each row execute function app.trg();
alter table app.part_2024 disable trigger on_part;
create trigger on_view instead of delete on app.v for each row execute function app.trg();
alter table public."Größe€" enable always trigger stmt;
comment on trigger "tr; g" on public."Größe€" is 'x';
alter table app.parent enable row level security, force row level security;
create policy "po; l" on app.parent for update to plain, "Ro'le; ""x""" using (id > 1) with check ("Quo""ted; name" <> ';');
create policy everyone on app.parent as restrictive using (true);
comment on policy "po; l" on app.parent is 'x';

-- Foreign data
create foreign data wrapper "fd; w" options (x ';--');
create server "ser; ver" foreign data wrapper "fd; w" options (host 'it''s');
create user mapping for plain server "ser; ver" options (password ';');
create user mapping for public server "ser; ver";
create foreign table app.far (a int options (y '$$'), b text default ';') server "ser; ver";
comment on foreign table app.far is 'x';

-- Grants
grant usage on schema app to plain, "Ro'le; ""x""";
grant select on app.parent to plain with grant option;
grant select (id), update ("Quo""ted; name") on app.parent to "Ro'le; ""x""";
set role plain;
grant select on app.parent to chain;
reset role;
grant execute on function app.atomic(int, int) to plain;
revoke execute on function app.header() from public;
grant usage on sequence app.alone to plain;
grant usage on type app.mood to plain;
grant all on foreign server "ser; ver" to plain;
revoke all on schema public from public;
alter default privileges for role plain in schema app grant select on tables to chain;
alter default privileges grant execute on functions to plain;

-- What a mirror must not do by itself
create function app.ev() returns event_trigger language plpgsql as $$ begin end $$;
create event trigger "ev; t" on ddl_command_end when tag in ('CREATE SCHEMA') execute function app.ev();
comment on event trigger "ev; t" is 'x';
create publication "Pub; 1" for table public."on" (a) where (a > 1), app.part;
comment on publication "Pub; 1" is 'x';
create publication p2 for tables in schema app;
