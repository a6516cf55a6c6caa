-- What a database holds besides rows: code, views, rules, policies, comments, grants.

-- A body of the SQL standard: its semicolons do not end the statement.
create function odd.atomic(a integer, b integer default 2) returns integer language sql immutable
begin atomic
  select 1;
  select case when a > b then a else b end;
end;
create function odd.atomic_text(t text) returns text language sql stable return upper(t) || ';' || $$;$$;

create function odd.quoted(name text) returns text language plpgsql as $body$
begin
  return $$it's $$ || quote_ident(name) || ' -- no comment; /* nor here */ ' || E'\'';
end
$body$;
create procedure odd.keep_house(inout steps integer default 0) language plpgsql as $$
begin
  steps := steps + 1;
end
$$;
create function odd.total(variadic numbers integer[]) returns bigint language sql as $$ select sum(n) from unnest(numbers) as n $$;
create aggregate odd.product(numeric) (sfunc = numeric_mul, stype = numeric, initcond = '1');
create operator odd.<+> (leftarg = integer, rightarg = integer, function = odd.atomic);
create cast (odd.mood as ltree) with inout as assignment;

create view odd.teams_view as select t.id, t.name, count(p.*) as players from odd.teams t left join odd.players p on p.team = t.id group by t.id;
create view odd."View ""of"" view" with (security_barrier) as select * from odd.teams_view where players > 0;
create recursive view odd.counting (n) as values (1) union all select n + 1 from counting where n < 5;
create materialized view odd.sums as select a, count(*) as rows from odd.indexed group by a;
create unique index sums_key on odd.sums (a);
create materialized view odd.unfilled as select 1 as one with no data;

create table odd.log (id bigserial primary key, at timestamptz default clock_timestamp(), what text);
create table odd.watched (id integer primary key, v text, touched timestamptz);
create function odd.touch() returns trigger language plpgsql as $$
begin
  new.touched := now();
  insert into odd.log (what) values (tg_op || ' ' || new.id);
  return new;
end
$$;
create trigger touch before insert or update on odd.watched for each row execute function odd.touch();
create trigger touch_always after update of v on odd.watched for each row when (old.v is distinct from new.v) execute function odd.touch();
alter table odd.watched enable always trigger touch_always;
create function odd.note_statement() returns trigger language plpgsql as $$
begin
  insert into odd.log (what) select 'changed ' || count(*) from changed;
  return null;
end
$$;
create trigger note_statement after insert on odd.watched referencing new table as changed for each statement execute function odd.note_statement();
create constraint trigger later after delete on odd.orders deferrable initially deferred for each row execute function odd.note_statement();
alter table odd.orders disable trigger later;
insert into odd.watched (id, v) values (1, 'one'), (2, 'two');

create table odd.ruled (id integer primary key, v text);
create rule ruled_insert as on insert to odd.ruled where new.id < 0 do instead nothing;
create rule ruled_update as on update to odd.ruled do also insert into odd.log (what) values ('ruled; update');
insert into odd.ruled values (1, 'one'), (-1, 'never');

create table odd.secrets (id integer primary key, owner name not null default current_user, v text);
alter table odd.secrets enable row level security, force row level security;
create policy own_rows on odd.secrets as permissive for all to public using (owner = current_user) with check (owner = current_user);
create policy never_deleted on odd.secrets as restrictive for delete to fixture_reader using (false);
insert into odd.secrets (id, owner, v) values (1, 'postgres', 'seen'), (2, 'fixture_reader', 'hidden');

comment on schema odd is 'It''s odd; "very"';
comment on table odd.numbers is E'line one\nline two -- $$';
comment on column odd.numbers.exact is '';
comment on constraint bookings_apart on odd.bookings is 'apart';
comment on type odd.mood is 'moods';
comment on function odd.atomic(integer, integer) is 'the greater';
comment on index odd.indexed_gin is 'an index';

grant usage on schema odd to fixture_reader;
grant select on all tables in schema odd to fixture_reader;
grant update (v) on odd.orders to fixture_reader with grant option;
grant execute on function odd.quoted(text) to public;
revoke execute on function odd.atomic(integer, integer) from public;
alter default privileges in schema odd grant select on tables to fixture_reader;
alter table odd.teams owner to "Fixture Owner";
alter type odd.mood_holder owner to "Fixture Owner";

-- A grant to a role that the target does not have is tested by not creating these roles there.
create publication odd_nothing;
alter database :"DBNAME" set work_mem = '5MB';
