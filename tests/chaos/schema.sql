-- The ground of the chaos: accounts with an invariant, and tables for each kind of change.
create schema chaos;
create table chaos.account_a (id int primary key, balance bigint not null);
create table chaos.account_b (id int primary key, balance bigint not null, note text);
create table chaos.audit (id bigserial primary key, amount bigint not null, writer int not null);
create table chaos.ledger (writer int primary key, n bigint not null, moved bigint not null);
create table chaos.keyed (id int primary key, v text);
create table chaos.uniques (id int primary key, u int unique not null);
create table chaos.large (id int primary key, note text, body text, more text);
create table chaos.keyless (n int, v text, f float8);
alter table chaos.keyless replica identity full;
create table chaos.emptied (id serial primary key, v text);
create table chaos.evolving (id int primary key, v text);
create table chaos.parts (id int, region text, v text, primary key (id, region)) partition by list (region);
create table chaos.parts_eu partition of chaos.parts for values in ('eu');
create table chaos.parts_rest partition of chaos.parts default;
create table chaos.prepared (id int primary key, v text);

create function chaos.noise(bytes int) returns text language sql volatile as
  $$ select left(string_agg(md5(random()::text), ''), bytes) from generate_series(1, bytes / 32 + 1) $$;
insert into chaos.account_a select n, 100 from generate_series(1, 50) n;
insert into chaos.account_b select n, -100, chaos.noise(3000) from generate_series(1, 50) n;
insert into chaos.ledger select n, 0, 0 from generate_series(0, 9) n;
insert into chaos.keyed select n, 'v' from generate_series(1, 200) n;
insert into chaos.uniques select n, n from generate_series(1, 100) n;
insert into chaos.large select n, 'n', chaos.noise(6000), chaos.noise(4000) from generate_series(1, 300) n;
insert into chaos.keyless select n % 5, 'same', null from generate_series(1, 50) n;
insert into chaos.evolving select n, 'v' from generate_series(1, 50) n;
insert into chaos.parts select n, case n % 2 when 0 then 'eu' else 'us' end, 'v' from generate_series(1, 60) n;

create function chaos.pick(low int, high int) returns int language sql volatile as
  $$ select low + floor(random() * (high - low + 1))::int $$;

create procedure chaos.step(writer int) language plpgsql as $$
declare
  one int := chaos.pick(1, 50);
  two int := chaos.pick(1, 50);
  base int := chaos.pick(1000, 2000000000);
  amount int := chaos.pick(1, 100);
begin
  case chaos.pick(1, 14)
    when 1, 2, 3 then
      update chaos.account_a set balance = balance - amount where id = one;
      update chaos.account_b set balance = balance + amount where id = two;
      insert into chaos.audit (amount, writer) values (amount, step.writer);
      update chaos.ledger l set n = n + 1, moved = moved + amount where l.writer = step.writer;
    when 4 then
      insert into chaos.keyed values (base, 'new') on conflict do nothing;
      update chaos.keyed set id = -id where id = base;
      update chaos.keyed set v = v || '.' where id % 17 = one % 17;
    when 5 then
      delete from chaos.keyed where id in (select id from chaos.keyed where id < 0 limit 3);
      insert into chaos.keyed values (one, 'back') on conflict (id) do update set v = 'again';
    when 6 then
      update chaos.uniques set u = -1 - step.writer where id = one;
      update chaos.uniques set u = (select 1000 + max(u) from chaos.uniques) where id = two and id <> one;
      update chaos.uniques set u = (select 1000 + max(u) from chaos.uniques) where id = one;
    when 7 then
      update chaos.large set note = 'touched' where id % 50 = one % 50;
      update chaos.large set body = chaos.noise(5000) where id = one;
      update chaos.large set id = id + 1000 * (case when id > 100000 then -100 else 1 end) where id % 1000 = two;
    when 8 then
      insert into chaos.keyless select one % 5, 'same', 'NaN' from generate_series(1, 3);
      delete from chaos.keyless where ctid in (select ctid from chaos.keyless where n = two % 5 limit 2);
    when 9 then
      update chaos.keyless set v = 'one of many' where ctid in (select ctid from chaos.keyless where n = two % 5 limit 1);
    when 10 then
      insert into chaos.emptied (v) select 'e' from generate_series(1, 10);
      if one < 10 then truncate chaos.emptied restart identity; insert into chaos.emptied (v) values ('after'); end if;
    when 11 then
      insert into chaos.parts values (base, 'us', 'new') on conflict do nothing;
      update chaos.parts set region = case region when 'eu' then 'asia' else 'eu' end where id = one;
      update chaos.parts set v = v || '.' where id % 10 = two % 10 and length(v) < 50;
    when 12 then
      insert into chaos.evolving (id, v) values (base, 'new') on conflict do nothing;
      update chaos.evolving set v = 'changed' where id = one;
    when 13 then
      -- Enough to be streamed in progress.
      insert into chaos.keyed select base / 2 + n, 'many' from generate_series(1, 1500) n on conflict do nothing;
      update chaos.keyed set v = 'many too' where id between base / 2 and base / 2 + 700;
      delete from chaos.keyed where id between base / 2 and base / 2 + 1490;
    when 14 then
      delete from chaos.audit where id < 0;
      update chaos.account_b set note = chaos.noise(3000) where id = two;
  end case;
end $$;

create procedure chaos.run(writer int, seed int, transactions int) language plpgsql as $$
begin
  perform setseed((seed % 1000003) / 1000003.0);
  for number in 1 .. transactions loop
    for part in 1 .. chaos.pick(1, 6) loop
      begin
        call chaos.step(writer);
        if chaos.pick(1, 12) = 1 then
          raise exception 'a savepoint rolls back' using errcode = 'P0R01';
        end if;
      exception
        when sqlstate 'P0R01' or deadlock_detected or unique_violation or lock_not_available then null;
      end;
    end loop;
    if chaos.pick(1, 12) = 1 then rollback; else commit; end if;
  end loop;
end $$;
